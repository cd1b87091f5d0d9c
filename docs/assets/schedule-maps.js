// Elementary maps of schedules, and the beta distribution, in float64: flowsamplers/schedules/maps.py in the browser.
"use strict";

const scheduleMaps = (() => {
  const PIXELS_PER_TOKEN = 16;
  const JUMP = 4300; // tokens; above, empiricalMu no longer depends on the steps

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
    if (p === 0.5 && a === b) return 0.5;
    if (p > 0.5) return 1 - betaQuantile(1 - p, b, a);
    let [low, high] = [0, 1];
    for (let i = 0; i < 80; i++) {
      const middle = (low + high) / 2;
      if (incompleteBeta(middle, a, b) < p) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }

  return {
    JUMP,
    linspace,
    pipelineSigmas,
    timeShift,
    shiftSigma,
    tokensFor,
    empiricalMu,
    flux1Mu,
    karrasSpacing,
    exponentialSpacing,
    betaQuantile,
  };
})();
