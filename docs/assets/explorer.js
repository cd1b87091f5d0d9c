// The page "Schedule explorer": settings -> grid -> facts, plots, table, code. The numbers are those of schedules.js.
"use strict";

document$.subscribe(() => {
  const root = document.getElementById("explorer");
  if (root) explorer(root);
});

function explorer(root) {
  const { SCHEDULES, JUMP, grid, tokensFor } = flowsamplers;
  const find = (selector) => root.querySelector(selector);

  // ---- what there is to set ----

  const FIELDS = {
    steps: { label: "Steps", min: 1, max: 50, step: 1, whole: true },
    width: { label: "Width in pixels", min: 256, max: 2048, step: 16 },
    height: { label: "Height in pixels", min: 256, max: 2048, step: 16 },
    mu: { label: "mu", min: -1, max: 4, step: 0.01, automatic: "empirical: from tokens and steps" },
    shift: { label: "Shift", min: 0.2, max: 12, step: 0.1, automatic: "e to the mu", fixed: 3 },
    base_shift: { label: "mu at 256 tokens", min: 0, max: 3, step: 0.05 },
    max_shift: { label: "mu at 4,096 tokens", min: 0, max: 3, step: 0.05 },
    sigma_min: { label: "sigma_min, in EDM's sigma", min: 0.0005, max: 0.1, step: 0.0005 },
    sigma_max: { label: "sigma_max, in EDM's sigma", min: 10, max: 1000, step: 10 },
    rho: { label: "rho", min: 1, max: 12, step: 0.5 },
    c: { label: "c, deviation of the data", min: 0.1, max: 4, step: 0.05 },
    scale: { label: "Scale", min: 0.1, max: 2, step: 0.05 },
    threshold: { label: "Threshold", min: 0.005, max: 0.5, step: 0.005 },
    linear_steps: { label: "Linear steps", min: 1, max: 25, step: 1, whole: true, automatic: "half of the steps", fixed: 2 },
    pivot: { label: "Pivot", min: 0.1, max: 0.9, step: 0.05 },
    slope: { label: "Slope", min: 0.05, max: 1, step: 0.05 },
    middle: { label: "Middle", min: 0.1, max: 0.9, step: 0.05 },
    alpha: { label: "alpha", min: 0.1, max: 2, step: 0.05 },
    beta: { label: "beta", min: 0.1, max: 2, step: 0.05 },
    points: { label: "Points of the table", min: 1000, max: 10000, step: 1000, whole: true },
  };

  const PRESETS = {
    "FLUX.2 1024x1024, 4 steps": {},
    "just above the jump: 1056x1056": { width: 1056, height: 1056 },
    "FLUX.2, 50 steps": { steps: 50 },
    "FLUX.1 1024x1024, 28 steps": { schedule: "flux1", steps: 28 },
    "Stable Diffusion 3, 28 steps": { schedule: "shift", steps: 28 },
    "even steps": { schedule: "linear", steps: 8 },
  };

  const START = { schedule: "flux2", steps: 4, width: 1024, height: 1024 }; // and the options as the library has them
  let settings = { ...START };

  const optionsOf = (schedule) => SCHEDULES[schedule]?.options ?? {};
  const optionNames = () => Object.keys(optionsOf(settings.schedule)).filter((name) => name !== "tokens");
  const valueOf = (name) => (name in settings ? settings[name] : optionsOf(settings.schedule)[name]);

  // whether mu comes from the size of the image
  function needsTokens() {
    const options = optionsOf(settings.schedule);
    return "tokens" in options && !("mu" in options && valueOf("mu") !== null);
  }

  // the settings that this schedule reads, in the order of the link
  function inUse() {
    const names = ["schedule", "steps", ...(needsTokens() ? ["width", "height"] : []), ...optionNames()];
    return names.map((name) => [name, valueOf(name)]).filter(([, value]) => value !== null);
  }

  function libraryOptions() {
    const options = Object.fromEntries(optionNames().map((name) => [name, valueOf(name)]));
    if (needsTokens()) options.tokens = tokensFor(settings.width, settings.height);
    return options;
  }

  const asNumber = (text) => (text.trim() === "" ? NaN : Number(text));

  // ---- the link ----

  const link = () => `${location.origin}${location.pathname}?${new URLSearchParams(inUse())}`;

  function readLink() {
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (name === "schedule") settings.schedule = value;
      else if (Object.hasOwn(FIELDS, name)) settings[name] = asNumber(value);
    }
  }

  let pending;
  function keepLink() {
    clearTimeout(pending); // browsers refuse a new address a hundred times in a second
    pending = setTimeout(() => history.replaceState(null, "", link()), 150);
  }

  // ---- settings on the page ----

  function numberField(name) {
    const { label, min, max, step } = FIELDS[name];
    const field = document.createElement("div");
    field.className = "explorer-field";
    field.innerHTML =
      `<label for="explorer-${name}">${label}</label>` +
      `<input type="range" aria-label="${label}, slider" min="${min}" max="${max}" step="${step}">` +
      `<input type="number" id="explorer-${name}" name="${name}" step="${step}" inputmode="decimal">`;
    const [range, number] = field.querySelectorAll("input");
    range.value = number.value = valueOf(name);
    range.addEventListener("input", () => change(name, (number.value = range.value)));
    number.addEventListener("input", () => change(name, (range.value = number.value) && number.value));
    return field;
  }

  // an option that the schedule works out by itself, until the reader fixes it
  function automaticField(name) {
    const { label, automatic, fixed } = FIELDS[name];
    const isFixed = valueOf(name) !== null;
    const field = document.createElement("div");
    field.className = "explorer-field";
    field.innerHTML =
      `<label for="explorer-${name}-kind">${label}</label><select id="explorer-${name}-kind">` +
      `<option value="automatic">${automatic}</option><option value="fixed">fixed</option></select>`;
    const kind = field.querySelector("select");
    kind.value = isFixed ? "fixed" : "automatic";
    kind.addEventListener("change", () => {
      setAll({ ...settings, [name]: kind.value === "fixed" ? (fixed ?? Number((shown.mu ?? 2).toFixed(4))) : null });
      find(`#explorer-${name}-kind`).focus(); // the fields are new
    });
    return isFixed ? [field, numberField(name)] : [field];
  }

  function showFields() {
    const options = optionsOf(settings.schedule);
    const names = ["steps", ...(needsTokens() ? ["width", "height"] : []), ...optionNames()];
    find(".explorer-options").replaceChildren(...names.flatMap((name) => (options[name] === null ? automaticField(name) : numberField(name))));
    find("#explorer-schedule").value = settings.schedule;
    find("#explorer-about").textContent = SCHEDULES[settings.schedule]?.about ?? "";
  }

  function change(name, text) {
    settings[name] = asNumber(text);
    show();
    keepLink();
  }

  function setAll(values) {
    settings = values;
    showFields();
    show();
    keepLink();
  }

  // ---- results on the page ----

  let shown = { mu: 2 }; // the last grid that could be shown

  function show() {
    const error = find(".explorer-error");
    let result;
    try {
      shown = result = grid(settings.schedule, settings.steps, libraryOptions());
    } catch (problem) {
      error.textContent = problem.message;
    }
    error.hidden = Boolean(result);
    for (const part of root.querySelectorAll(".explorer-facts, .explorer-plot, .explorer-code, .explorer-table")) part.hidden = !result;
    if (!result) return;
    showFacts(result);
    showPlots(result);
    showTable(result);
    find("#explorer-python").textContent = python();
  }

  function showFacts({ dt, sum, mu }) {
    const largest = dt.indexOf(Math.min(...dt));
    const facts = [
      ["steps", dt.length],
      ...(needsTokens() ? [["tokens", tokensFor(settings.width, settings.height).toLocaleString("en")]] : []),
      ...(mu === null ? [] : [["mu", mu.toFixed(4)]]),
      [`largest step: ${largest === dt.length - 1 ? "the last" : `number ${largest + 1}`}`, dt[largest].toFixed(4)],
      ["sum of dt", sum.toFixed(7)],
    ];
    find(".explorer-facts").innerHTML = facts.map(([what, value]) => `<span><b>${value}</b> <small>${what}</small></span>`).join("");
  }

  function showTable({ sigmas, timesteps, dt, sum }) {
    const row = (s, i) => {
      const rest = i < dt.length ? `<td>${timesteps[i].toFixed(4)}</td><td>${dt[i].toFixed(7)}</td>` : "<td></td><td></td>";
      return `<tr><th scope="row">${i}</th><td>${s.toFixed(7)}</td>${rest}</tr>`;
    };
    find("tbody").innerHTML = sigmas.map(row).join("");
    find("tfoot td").textContent = sum.toFixed(7);
  }

  function showPlots(result) {
    const plot = find("[data-plot=sigmas]");
    const width = Math.max(plot.clientWidth, 240); // 0 where the page is not shown
    plot.innerHTML = sigmaPlot(result, width);
    const figure = find("[data-needs=tokens]");
    figure.hidden = !needsTokens();
    if (figure.hidden) return;
    const muAt = (tokens) => SCHEDULES[settings.schedule].mu({ ...optionsOf(settings.schedule), ...libraryOptions(), tokens, steps: settings.steps });
    find("[data-plot=mu]").innerHTML = muPlot(muAt, tokensFor(settings.width, settings.height), JUMP, width);
    const [below, above] = [muAt(JUMP), muAt(JUMP + 1)].map((mu) => mu.toFixed(2));
    find("[data-needs=tokens] figcaption").textContent =
      settings.schedule === "flux2"
        ? `With ${settings.steps} steps mu is ${below} at ${JUMP.toLocaleString("en")} tokens and ${above} at ${(JUMP + 1).toLocaleString("en")}.`
        : "Here mu is a straight line in the number of tokens.";
  }

  // ---- code ----

  const literal = (x) => (Number.isInteger(x) && Math.abs(x) < 1e15 ? `${x}.0` : String(x));

  function python() {
    const defaults = optionsOf(settings.schedule);
    const isWhole = (name) => name === "tokens" || FIELDS[name].whole;
    const options = Object.entries({ steps: settings.steps, ...libraryOptions() })
      .filter(([name, value]) => name === "tokens" || value !== defaults[name])
      .map(([name, value]) => `${name}=${isWhole(name) ? value : literal(value)}`);
    return `fs.schedules.${settings.schedule}(${options.join(", ")})`;
  }

  const COPIES = {
    python,
    sigmas: () => `[${grid(settings.schedule, settings.steps, libraryOptions()).sigmas.map(literal).join(", ")}]`,
    link,
  };

  async function copy(kind) {
    const text = COPIES[kind]();
    try {
      await navigator.clipboard.writeText(text);
      find(".explorer-copied").textContent = "Copied.";
    } catch {
      find(".explorer-copied").textContent = `The browser does not let this page copy: ${text}`;
    }
  }

  // ---- begin ----

  const families = {};
  for (const [name, { family }] of Object.entries(SCHEDULES)) {
    families[family] ??= find("#explorer-schedule").appendChild(Object.assign(document.createElement("optgroup"), { label: family }));
    families[family].append(new Option(name, name));
  }
  for (const [name, values] of Object.entries(PRESETS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => setAll({ ...START, ...values }));
    find(".explorer-presets").append(button);
  }
  find("#explorer-schedule").addEventListener("change", (event) => {
    const { steps, width, height } = settings;
    setAll({ schedule: event.target.value, steps, width, height }); // options of the same name mean different things
  });
  for (const button of root.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy));
  readLink();
  showFields();
  show();
  let width = root.clientWidth;
  new ResizeObserver(() => {
    if (root.clientWidth === width) return; // its height is of the explorer's own making
    width = root.clientWidth;
    show();
  }).observe(root);
}
