// The two drawings of the schedule explorer, as SVG text; they take numbers only, and colours from explorer.css.
"use strict";

const LEFT = 48; // room for the labels of the vertical axis
const RIGHT = 12;

// about `count` round numbers from 0 to `end`
function ticks(end, count) {
  const rough = end / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, i) => i * step);
}

const rounded = (x) => Number(x.toFixed(6)).toLocaleString("en");

function frame({ left, right, top, bottom, x, y, xTicks, yTicks, title }) {
  const across = yTicks.map(
    (v) => `<line class="grid" x1="${left}" x2="${right}" y1="${y(v)}" y2="${y(v)}"/><text x="${left - 6}" y="${y(v) + 4}" text-anchor="end">${rounded(v)}</text>`,
  );
  const along = xTicks.map((v) => `<line class="grid" x1="${x(v)}" x2="${x(v)}" y1="${bottom}" y2="${bottom + 4}"/>`);
  return `<text class="title" x="${left}" y="${top - 8}">${title}</text>${across.join("")}${along.join("")}`;
}

const xLabels = (xTicks, x, y) => xTicks.map((v) => `<text x="${x(v)}" y="${y}" text-anchor="middle">${rounded(v)}</text>`).join("");

// sigma at every node, and under it the length of every step, over one axis of steps
function sigmaPlot({ sigmas, dt }, width) {
  const n = dt.length;
  const [top, middle, second, bottom] = [26, 226, 266, 366];
  const right = width - RIGHT;
  const x = (i) => LEFT + (i / n) * (right - LEFT);
  const y = (s) => middle - s * (middle - top);
  const longest = Math.max(...dt.map((d) => -d));
  const height = (d) => (-d / longest) * (bottom - second);
  const xTicks = ticks(n, Math.min(n, width < 500 ? 5 : 10));
  const area = { left: LEFT, right, x, xTicks };
  const gap = Math.min(4, ((right - LEFT) / n) * 0.2);
  const dots = n > 60 ? "" : sigmas.map((s, i) => `<circle cx="${x(i)}" cy="${y(s)}" r="4"><title>sigma ${s.toFixed(4)} at ${i}</title></circle>`).join("");
  const bars = dt
    .map((d, i) => `<rect x="${x(i) + gap / 2}" width="${x(i + 1) - x(i) - gap}" y="${bottom - height(d)}" height="${height(d)}"><title>step ${i + 1}: dt ${d.toFixed(4)}</title></rect>`)
    .join("");
  return (
    `<svg role="img" aria-label="Sigma falls from 1 to 0 in ${n} steps; the longest has length ${longest.toFixed(4)}. The table has the numbers." width="${width}" height="${bottom + 40}">` +
    frame({ ...area, top, bottom: middle, y, yTicks: [0, 0.25, 0.5, 0.75, 1], title: "sigma" }) +
    `<polyline points="${sigmas.map((s, i) => `${x(i)},${y(s)}`).join(" ")}"/>${dots}` +
    frame({ ...area, top: second, bottom, y: (v) => bottom - (v / longest) * (bottom - second), yTicks: ticks(longest, 4), title: "length of the step, -dt" }) +
    bars +
    xLabels(xTicks, x, bottom + 18) +
    `<text x="${(LEFT + right) / 2}" y="${bottom + 34}" text-anchor="middle">step</text></svg>`
  );
}

// mu against the number of tokens: two straight pieces, and where this image stands
function muPlot(muAt, tokens, jump, width) {
  const [top, bottom] = [26, 146];
  const right = width - RIGHT;
  const end = Math.max(16384, tokens);
  const pieces = [
    [1, jump],
    [jump + 1, end],
  ].map((piece) => piece.map((t) => [t, muAt(t)]));
  const values = [...pieces.flat().map(([, mu]) => mu), 0];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (t) => LEFT + (t / end) * (right - LEFT);
  const y = (mu) => bottom - ((mu - low) / (high - low)) * (bottom - top);
  const xTicks = ticks(end, width < 500 ? 4 : 8);
  const lines = pieces.map((piece) => `<polyline points="${piece.map(([t, mu]) => `${x(t)},${y(mu)}`).join(" ")}"/>`).join("");
  return (
    `<svg role="img" aria-label="mu is ${muAt(tokens).toFixed(4)} at ${tokens} tokens" width="${width}" height="${bottom + 40}">` +
    frame({ left: LEFT, right, top, bottom, x, y, xTicks, yTicks: ticks(high, 4), title: "mu" }) +
    lines +
    `<circle cx="${x(tokens)}" cy="${y(muAt(tokens))}" r="5"/>` +
    xLabels(xTicks, x, bottom + 18) +
    `<text x="${(LEFT + right) / 2}" y="${bottom + 34}" text-anchor="middle">tokens</text></svg>`
  );
}
