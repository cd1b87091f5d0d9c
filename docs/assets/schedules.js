// The library's schedules in the browser, in float64, as flowsamplers/schedules has them. No page elements here: numbers only.
// tests/test_explorer.py holds every one of them to the library's values.
"use strict";

const flowsamplers = (() => {
  const MAX_STEPS = 1000;
  const PIXELS_PER_TOKEN = 16;
  const JUMP = 4300; // tokens; above, empiricalMu no longer depends on the steps

  // ---- elementary maps, one sigma at a time ----

  const linspace = (a, b, n) => Array.from({ length: n }, (_, i) => (i === 0 ? a : i === n - 1 ? b : a + (i * (b - a)) / (n - 1)));
  const pipelineSigmas = (steps) => Array.from({ length: steps }, (_, i) => (steps - i) / steps);
  const timeShift = (mu) => (s) => Math.exp(mu) / (Math.exp(mu) + (1 / s - 1));
  const shiftSigma = (k) => (s) => (k * s) / (k * s + (1 - s));

  function tokensFor(width, height) {
    for (const [name, side] of Object.entries({ width, height })) {
      if (!(side >= PIXELS_PER_TOKEN)) throw new Error(`${name}=${side}: an image side has at least ${PIXELS_PER_TOKEN} pixels`);
    }
    return Math.floor(width / PIXELS_PER_TOKEN) * Math.floor(height / PIXELS_PER_TOKEN);
  }

  function empiricalMu(tokens, steps) {
    const at200 = 0.00016927 * tokens + 0.45666666;
    if (tokens > JUMP) return at200;
    const at10 = 8.73809524e-5 * tokens + 1.89833333;
    const slope = (at200 - at10) / 190;
    return slope * steps + (at200 - 200 * slope);
  }

  function flux1Mu(tokens, baseShift, maxShift) {
    const slope = (maxShift - baseShift) / (4096 - 256);
    return tokens * slope + (baseShift - slope * 256);
  }

  function karrasSpacing(high, low, n, rho) {
    const [a, b] = [high ** (1 / rho), low ** (1 / rho)];
    return linspace(0, 1, n).map((t) => (a + t * (b - a)) ** rho);
  }

  const exponentialSpacing = (high, low, n) => linspace(Math.log(high), Math.log(low), n).map(Math.exp);

  const betaSpacing = (high, low, n, alpha, beta) =>
    linspace(0, 1, n).map((t) => low + betaQuantile(1 - t, alpha, beta) * (high - low));

  // ---- the beta distribution ----

  // log of the gamma function, Lanczos' approximation with g = 7
  function logGamma(z) {
    const c = [
      0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
      -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
    ];
    if (z < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * z)) - logGamma(1 - z);
    const t = z + 6.5;
    const sum = c.slice(1).reduce((total, x, i) => total + x / (z + i), c[0]);
    return 0.5 * Math.log(2 * Math.PI) + (z - 0.5) * Math.log(t) - t + Math.log(sum);
  }

  // the regularised incomplete beta function: its continued fraction (DLMF 8.17.22), by Lentz' method
  function incompleteBeta(x, a, b) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
    const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
    let [f, c, d] = [1, 1, 0];
    for (let i = 0; i < 300; i++) {
      const m = Math.floor(i / 2);
      const term =
        i === 0 ? 1 : i % 2 === 0 ? (m * (b - m) * x) / ((a + i - 1) * (a + i)) : (-(a + m) * (a + b + m) * x) / ((a + i - 1) * (a + i));
      d = 1 / (1 + term * d);
      c = 1 + term / c;
      f *= c * d;
      if (Math.abs(1 - c * d) < 1e-16) break;
    }
    return front * (f - 1);
  }

  // where the distribution function reaches p, by bisection
  function betaQuantile(p, a, b) {
    if (p > 0.5) return 1 - betaQuantile(1 - p, b, a);
    let [low, high] = [0, 1];
    for (let i = 0; i < 80; i++) {
      const middle = (low + high) / 2;
      if (incompleteBeta(middle, a, b) < p) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }

  // ---- the schedules: options with the library's defaults, and the nodes before the final 0 ----

  const respaced = (steps, shift, spacing) => {
    const s = pipelineSigmas(steps).map(shiftSigma(shift));
    return spacing(s[0], s[s.length - 1], steps);
  };

  const SCHEDULES = {
    flux2: {
      options: { tokens: 4096, mu: null },
      mu: (o) => o.mu ?? empiricalMu(o.tokens, o.steps),
      nodes: (o) => pipelineSigmas(o.steps).map(timeShift(o.mu ?? empiricalMu(o.tokens, o.steps))),
    },
    flux1: {
      options: { tokens: 4096, base_shift: 0.5, max_shift: 1.15 },
      mu: (o) => flux1Mu(o.tokens, o.base_shift, o.max_shift),
      nodes: (o) => pipelineSigmas(o.steps).map(timeShift(flux1Mu(o.tokens, o.base_shift, o.max_shift))),
    },
    shift: { options: { shift: 3 }, nodes: (o) => pipelineSigmas(o.steps).map(shiftSigma(o.shift)) },
    linear: { options: {}, nodes: (o) => pipelineSigmas(o.steps) },
    karras: { options: { shift: 3 }, nodes: (o) => respaced(o.steps, o.shift, (a, b, n) => karrasSpacing(a, b, n, 7)) },
    exponential: { options: { shift: 3 }, nodes: (o) => respaced(o.steps, o.shift, exponentialSpacing) },
    beta: { options: { shift: 3 }, nodes: (o) => respaced(o.steps, o.shift, (a, b, n) => betaSpacing(a, b, n, 0.6, 0.6)) },
  };

  // The grid of a schedule: sigmas (N + 1), dt (N), timesteps (N), their sum, and mu where there is one.
  // Throws an Error whose message says which setting is wrong, as the library does.
  function grid(name, steps, options = {}) {
    if (!Object.hasOwn(SCHEDULES, name)) throw new Error(`schedule=${name}: it is one of ${Object.keys(SCHEDULES).join(", ")}`);
    const schedule = SCHEDULES[name];
    if (!(steps >= 1)) throw new Error(`steps=${steps}: a schedule needs at least 1 step`);
    if (!Number.isInteger(steps)) throw new Error(`steps=${steps}: steps are whole`);
    if (steps > MAX_STEPS) throw new Error(`steps=${steps}: this page draws at most ${MAX_STEPS}; the library has no limit`);
    const o = { ...schedule.options, ...options, steps };
    for (const [option, value] of Object.entries(o)) {
      if (value !== null && !Number.isFinite(value)) throw new Error(`${option}=${value}: a finite number is needed`);
    }
    if ("shift" in o && o.shift <= 0) throw new Error(`shift=${o.shift}: the static shift is a positive number; 1 changes nothing`);
    const nodes = schedule.nodes(o);
    const sigmas = nodes.length > 1 && nodes[nodes.length - 1] === 0 ? nodes : [...nodes, 0];
    for (let i = 0; i < steps; i++) {
      if (!(sigmas[i + 1] < sigmas[i])) {
        throw new Error(`sigmas[${i}]=${sigmas[i]}, sigmas[${i + 1}]=${sigmas[i + 1]}: sigmas must fall strictly`);
      }
    }
    const dt = sigmas.slice(1).map((s, i) => s - sigmas[i]);
    return {
      sigmas,
      dt,
      timesteps: sigmas.slice(0, -1).map((s) => 1000 * s),
      sum: dt.reduce((a, b) => a + b, 0),
      mu: schedule.mu ? schedule.mu(o) : null,
    };
  }

  return { SCHEDULES, MAX_STEPS, JUMP, grid, tokensFor, empiricalMu };
})();
