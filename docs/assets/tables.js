// Tables inside <div class="filtered">: a box that filters the rows, and headings that sort them. Wide tables and code: a mark while there is more to the right.
{
  const value = (row, column) => row.cells[column].textContent.trim();
  const compare = (a, b) => a.localeCompare(b, "en", { numeric: true });

  function filterable(frame) {
    const table = frame.querySelector("table");
    const rows = [...table.tBodies[0].rows];
    const box = Object.assign(document.createElement("input"), { type: "search", placeholder: "Filter the table" });
    box.setAttribute("aria-label", "Filter the table");
    const count = Object.assign(document.createElement("span"), { textContent: `${rows.length} rows` });
    count.setAttribute("role", "status");
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/);
      rows.forEach(row => (row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word))));
      count.textContent = `${rows.filter(row => !row.hidden).length} rows`;
    });
    frame.prepend(box, count);
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: cell.textContent });
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const falling = cell.getAttribute("aria-sort") === "ascending";
        [...table.tHead.rows[0].cells].forEach(other => other.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
        rows.sort((a, b) => compare(value(a, column), value(b, column)) * (falling ? -1 : 1));
        table.tBodies[0].append(...rows);
      });
    });
  }

  function scrollable(frame) {
    const mark = () => {
      const hidden = frame.scrollWidth - frame.clientWidth;
      frame.toggleAttribute("data-wide", hidden > 2);
      frame.toggleAttribute("data-more", hidden - frame.scrollLeft > 2);
    };
    frame.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(frame);
  }

  // On a phone a long name in a table may be broken between its words.
  const breakable = code => (code.innerHTML = code.innerHTML.replace(/([_:.=]|[a-z](?=[A-Z]))(?=\w)/g, "$1<wbr>"));

  document$.subscribe(({ body }) => body.querySelectorAll("td code:not(:has(*))").forEach(breakable));
  document$.subscribe(({ body }) => body.querySelectorAll(".md-typeset__scrollwrap, pre > code").forEach(scrollable));
  document$.subscribe(({ body }) => body.querySelectorAll("div.filtered:not(:has(input))").forEach(filterable));
}
