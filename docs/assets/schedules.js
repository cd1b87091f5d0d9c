// The library's schedules in the browser, in float64, as flowsamplers/schedules has them. No page elements here: numbers only.
// tests/test_explorer.py holds every one of them to the library's values.
"use strict";

const flowsamplers = (() => {
  const MAX_STEPS = 1000;
  const m = scheduleMaps;

  // ---- refusals, in the library's words ----

  function positive(o, ...names) {
    for (const name of names) if (!(o[name] > 0)) throw new Error(`${name}=${o[name]}: a positive number`);
  }

  function inside(o, ...names) {
    for (const name of names) if (!(0 < o[name] && o[name] < 1)) throw new Error(`${name}=${o[name]}: it lies between 0 and 1`);
  }

  function levels({ sigma_min, sigma_max }) {
    if (!(0 < sigma_min && sigma_min < sigma_max)) {
      throw new Error(`sigma_min=${sigma_min}, sigma_max=${sigma_max}: noise levels are positive, and sigma_min is the lower`);
    }
  }

  // ---- what several of them share; o is the options with the steps ----

  const range = (first, count) => Array.from({ length: count }, (_, i) => first + i);
  const fromNoise = (inner) => [1, ...inner, 0];
  const flowSigma = (ve) => ve / (1 + ve);
  const logLinear = (o, ramp) => ramp.map((r) => Math.exp(r * (Math.log(o.sigma_max) - Math.log(o.sigma_min)) + Math.log(o.sigma_min)));
  const dynamic = (mu) => (o) => [...m.pipelineSigmas(o.steps).map(m.timeShift(mu(o))), 0];
  const flux2Mu = (o) => o.mu ?? m.empiricalMu(o.tokens, o.steps);
  const flux1Mu = (o) => m.flux1Mu(o.tokens, o.base_shift, o.max_shift);

  function shifted(o) {
    positive(o, "shift");
    return m.pipelineSigmas(o.steps).map(m.shiftSigma(o.shift));
  }

  const respaced = (spacing) => (o) => {
    const s = shifted(o);
    return [...spacing(s[0], s[s.length - 1], o.steps), 0];
  };

  // ComfyUI's table of sigmas: entry j of `points`, from 1; its first is ComfyUI's sigma_min
  const TABLE = { shift: null, mu: 1.15, points: 10000 };

  function comfy(o) {
    if (o.shift !== null) positive(o, "shift");
    if (!(Number.isInteger(o.points) && o.points >= 2)) throw new Error(`points=${o.points}: a table of sigmas has at least 2`);
    const shift = m.shiftSigma(o.shift ?? Math.exp(o.mu));
    const entry = (j) => shift(j / o.points);
    return { shift, entry, low: entry(1) };
  }

  function picked(o, indices) {
    const different = new Set(indices).size;
    if (different < indices.length) {
      throw new Error(`steps=${o.steps}: of the steps that the table of points=${o.points} gives, only ${different} are different`);
    }
    return [...indices.map((i) => comfy(o).entry(i + 1)), 0];
  }

  // to the nearest whole number, halves to the even one
  function rint(x) {
    const floor = Math.floor(x);
    if (x - floor === 0.5) return floor + (floor % 2);
    return Math.round(x);
  }

  // ---- the schedules: the library's options with its defaults, and all nodes ----

  const SCHEDULES = {
    flux2: {
      family: "Models",
      about: "FLUX.2: exponential time shift with the empirical mu of tokens and steps.",
      options: { tokens: 4096, mu: null },
      mu: flux2Mu,
      nodes: dynamic(flux2Mu),
    },
    flux1: {
      family: "Models",
      about: "FLUX.1: exponential time shift with a mu that is linear in the tokens.",
      options: { tokens: 4096, base_shift: 0.5, max_shift: 1.15 },
      mu: flux1Mu,
      nodes: dynamic(flux1Mu),
    },
    shift: {
      family: "Models",
      about: "Even steps, then the static shift: Stable Diffusion 3 (3), Wan (5 or 3), AuraFlow (1.73), HunyuanVideo (7).",
      options: { shift: 3 },
      nodes: (o) => [...shifted(o), 0],
    },
    linear: { family: "Closed form", about: "Even steps.", options: {}, nodes: (o) => [...m.pipelineSigmas(o.steps), 0] },
    karras_ve: {
      family: "Closed form",
      about: "EDM's rule in EDM's sigma, s / (1 - s): even steps of its 1/rho power.",
      options: { sigma_min: 0.002, sigma_max: 80, rho: 7 },
      nodes: (o) => {
        levels(o);
        return fromNoise(m.karrasSpacing(o.sigma_max, o.sigma_min, o.steps, o.rho).slice(1).map(flowSigma));
      },
    },
    exponential_ve: {
      family: "Closed form",
      about: "Even steps of the logarithm of EDM's sigma.",
      options: { sigma_min: 0.002, sigma_max: 80, rho: 1 },
      nodes: (o) => {
        levels(o);
        const ramp = m.linspace(1, 0, o.steps).slice(1);
        return fromNoise(logLinear(o, ramp.map((r) => r ** o.rho)).map(flowSigma));
      },
    },
    uniform_lambda: {
      family: "Closed form",
      about: "Even steps of half the log signal-to-noise ratio, the outermost nodes moved to 1 and 0.",
      options: { sigma_min: 1e-3, sigma_max: 1e3 },
      nodes: (o) => {
        levels(o);
        return fromNoise(logLinear(o, m.linspace(1, 0, o.steps + 1).slice(1, -1)).map(flowSigma));
      },
    },
    kl_optimal_rf: {
      family: "Closed form",
      about: "Align Your Steps' optimum for Gaussian data of standard deviation c; with c = 1 the cosine schedule.",
      options: { c: 1 },
      nodes: (o) => {
        positive(o, "c");
        const angles = range(0, o.steps + 1).map((i) => ((Math.PI / 2) * (o.steps - i)) / o.steps);
        return fromNoise(angles.slice(1, -1).map((a) => (o.c * Math.sin(a)) / (o.c * Math.sin(a) + Math.cos(a))));
      },
    },
    chebyshev: {
      family: "Closed form",
      about: "Even steps of the angle on a half circle, dense at both ends.",
      options: {},
      nodes: (o) => fromNoise(range(1, o.steps - 1).map((i) => Math.sin(((Math.PI / 2) * (o.steps - i)) / o.steps) ** 2)),
    },
    laplace: {
      family: "Closed form",
      about: "Quantiles of a Laplace distribution of the logarithm of EDM's sigma.",
      options: { mu: 0, scale: 0.5 },
      nodes: (o) => {
        positive(o, "scale");
        const logOdds = (r) => (r <= 0.5 ? o.mu - o.scale * Math.log(2 * r) : o.mu + o.scale * Math.log(2 * (1 - r)));
        return fromNoise(range(1, o.steps - 1).map((i) => 1 / (1 + Math.exp(-logOdds(i / o.steps)))));
      },
    },
    linear_quadratic: {
      family: "Closed form",
      about: "Mochi: even steps down to 1 - threshold, then a parabola.",
      options: { threshold: 0.025, linear_steps: null },
      nodes: (o) => {
        inside(o, "threshold");
        const [n, t] = [o.steps, o.threshold];
        if (n === 1) return [1, 0];
        const k = o.linear_steps ?? Math.floor(n / 2);
        if (!(Number.isInteger(k) && 0 < k && k < n)) throw new Error(`linear_steps=${k}: between 1 and ${n - 1} of ${n} steps are linear`);
        const q = (k - t * n) / (k * (n - k) ** 2);
        const slope = t / k - (2 * (k - t * n)) / (n - k) ** 2;
        return fromNoise(range(1, n - 1).map((i) => 1 - (i < k ? (t * i) / k : q * (i ** 2 + k ** 2) + slope * i)));
      },
    },
    bong_tangent: {
      family: "Closed form",
      about: "RES4LYF: two arctangent sigmoids, slow at both ends and in the middle.",
      options: { pivot: 0.6, slope: 0.2, middle: 0.5 },
      nodes: (o) => {
        inside(o, "pivot", "middle");
        positive(o, "slope");
        if (o.steps === 1) return [1, 0];
        const n = o.steps + 2;
        const split = Math.floor(o.pivot * n);
        if (!(2 <= split && split <= n - 2)) throw new Error(`pivot=${o.pivot}: each side of it needs 2 of the ${n} nodes`);
        const side = (count, centre, high, low) => {
          const a = range(0, count).map((x) => -Math.atan(((40 * o.slope) / n) * (x - centre)));
          return a.map((y) => low + ((high - low) * (y - a[count - 1])) / (a[0] - a[count - 1]));
        };
        return [...side(split, split, 1, o.middle).slice(0, -1), ...side(n - split, 0, o.middle, 0)];
      },
    },
    karras: {
      family: "diffusers' re-spacing",
      about: "Karras spacing of sigma itself, between the ends of a shifted grid.",
      options: { shift: 3 },
      nodes: respaced((high, low, n) => m.karrasSpacing(high, low, n, 7)),
    },
    exponential: {
      family: "diffusers' re-spacing",
      about: "Even steps of the logarithm of sigma, between the ends of a shifted grid.",
      options: { shift: 3 },
      nodes: respaced(m.exponentialSpacing),
    },
    beta: {
      family: "diffusers' re-spacing",
      about: "Quantiles of a beta distribution (0.6 and 0.6), between the ends of a shifted grid.",
      options: { shift: 3 },
      nodes: respaced((high, low, n) => m.linspace(0, 1, n).map((t) => low + m.betaQuantile(1 - t, 0.6, 0.6) * (high - low))),
    },
    simple: {
      family: "ComfyUI",
      about: "Evenly spaced entries of the model's table of sigmas.",
      options: TABLE,
      nodes: (o) => picked(o, range(0, o.steps).map((i) => o.points - 1 - Math.floor(i * (o.points / o.steps)))),
    },
    normal: {
      family: "ComfyUI",
      about: "Even times from 1 to sigma_min, shifted (sigma_min for the second time).",
      options: TABLE,
      nodes: (o) => {
        const { shift, low } = comfy(o);
        const endsThere = shift(low) <= 1e-5;
        return [...m.linspace(1, low, o.steps + endsThere).slice(0, o.steps).map(shift), 0];
      },
    },
    sgm_uniform: {
      family: "ComfyUI",
      about: "Even times from 1 to sigma_min, shifted, the last of them replaced by 0.",
      options: TABLE,
      nodes: (o) => {
        const { shift, low } = comfy(o);
        return [...m.linspace(1, low, o.steps + 1).slice(0, -1).map(shift), 0];
      },
    },
    ddim_uniform: {
      family: "ComfyUI",
      about: "Every d-th entry of the table, from its beginning: it starts below pure noise, and its steps need not be N.",
      options: TABLE,
      nodes: (o) => {
        const { entry } = comfy(o);
        const endsThere = entry(2) <= 1e-5;
        const stride = Math.max(Math.floor(o.points / (o.steps + endsThere)), 1);
        const falling = range(0, Math.ceil((o.points - 1) / stride)).map((i) => entry(2 + i * stride)).reverse();
        return [...(endsThere && falling.length > 1 ? falling.slice(0, -1) : falling), 0];
      },
    },
    beta_comfy: {
      family: "ComfyUI",
      about: "The table at quantiles of a beta distribution; with 0.5 and 0.7 it is RES4LYF's beta57.",
      options: { alpha: 0.6, beta: 0.6, ...TABLE },
      nodes: (o) => {
        positive(o, "alpha", "beta");
        const quantiles = range(0, o.steps).map((i) => m.betaQuantile(1 - i / o.steps, o.alpha, o.beta));
        return picked(o, quantiles.map((q) => rint(q * (o.points - 1))));
      },
    },
    karras_comfy: {
      family: "ComfyUI",
      about: "Karras spacing of sigma itself, between 1 and sigma_min.",
      options: { rho: 7, ...TABLE },
      nodes: (o) => [...m.karrasSpacing(1, comfy(o).low, o.steps, o.rho), 0],
    },
    exponential_comfy: {
      family: "ComfyUI",
      about: "Even steps of the logarithm of sigma, between 1 and sigma_min.",
      options: { rho: 1, ...TABLE },
      nodes: (o) => [...m.linspace(1, 0, o.steps).map((r) => Math.exp((1 - r ** o.rho) * Math.log(comfy(o).low))), 0],
    },
    kl_optimal: {
      family: "ComfyUI",
      about: "Even steps of the arctangent of sigma, between 1 and sigma_min.",
      options: TABLE,
      nodes: (o) => [1, ...m.linspace(Math.atan(1), Math.atan(comfy(o).low), o.steps).slice(1).map(Math.tan), 0],
    },
  };

  // The grid of a schedule: its sigmas, dt and timesteps, the sum of dt, and mu where there is one.
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
    const sigmas = schedule.nodes(o);
    const dt = sigmas.slice(1).map((s, i) => s - sigmas[i]);
    const wrong = dt.findIndex((d) => !(d < 0));
    if (wrong >= 0) throw new Error(`sigmas[${wrong}]=${sigmas[wrong]}, sigmas[${wrong + 1}]=${sigmas[wrong + 1]}: sigmas must fall strictly`);
    return {
      sigmas,
      dt,
      timesteps: sigmas.slice(0, -1).map((s) => 1000 * s),
      sum: dt.reduce((a, b) => a + b, 0),
      mu: schedule.mu ? schedule.mu(o) : null,
    };
  }

  return { SCHEDULES, MAX_STEPS, JUMP: m.JUMP, grid, tokensFor: m.tokensFor };
})();
