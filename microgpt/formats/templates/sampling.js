// @ts-check
// Logits → distribution → token, as microgpt/inference/sampling.py does it.

/** @typedef {import('../../serve/page/play/tree.js').Candidate} Candidate */

/**
 * @typedef {object} Sampling  How a token is drawn.
 * @property {number} temperature
 * @property {number} [top_k]
 * @property {number} [top_p]
 * @property {number} [min_p]
 * @property {number} [repetition_penalty]
 */

/**
 * The natural logarithms of softmax(logits).
 * @param {Float64Array} logits
 */
export function logSoftmax(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const total = Math.log(logits.reduce((sum, z) => sum + Math.exp(z - top), 0));
  return logits.map((z) => z - top - total);
}

/**
 * The distribution that a token is drawn from; at temperature 0 all of it is on the first maximum.
 * @param {Float64Array} logits
 * @param {Sampling} sampling
 * @param {number[]} seen  The tokens so far.
 */
export function probabilities(logits, { temperature, top_k = 0, top_p = 1, min_p = 0, repetition_penalty = 1 }, seen = []) {
  const z = logits.slice();
  if (repetition_penalty !== 1) for (const id of new Set(seen)) z[id] = z[id] > 0 ? z[id] / repetition_penalty : z[id] * repetition_penalty;
  const top = z.reduce((a, b) => Math.max(a, b));
  if (temperature === 0 || !Number.isFinite(top / temperature)) {
    const p = new Float64Array(z.length);
    p[z.indexOf(top)] = 1;
    return p;
  }
  let p = share(z.map((value) => Math.exp((value - top) / temperature)));
  if ((top_k > 0 && top_k < p.length) || top_p < 1) {
    const order = [...p.keys()].sort((a, b) => p[b] - p[a] || a - b);
    let kept = order.slice(0, top_k || order.length);
    if (top_p < 1) {
      const all = kept.reduce((sum, id) => sum + p[id], 0);
      let mass = 0;
      const last = kept.findIndex((id) => (mass += p[id] / all) >= top_p);
      if (last >= 0) kept = kept.slice(0, last + 1);
    }
    const among = new Set(kept);
    p = share(p.map((value, id) => (among.has(id) ? value : 0)));
  }
  if (min_p > 0) {
    const least = min_p * p.reduce((a, b) => Math.max(a, b));
    p = share(p.map((value) => (value >= least ? value : 0)));
  }
  return p;
}

/** @param {Float64Array} values */
function share(values) {
  const total = values.reduce((a, b) => a + b);
  return values.map((value) => value / total);
}

/**
 * A token drawn from a distribution.
 * @param {Float64Array} p
 * @param {number} number  From 0 to 1.
 */
export function draw(p, number) {
  const reach = number * p.reduce((a, b) => a + b);
  let mass = 0;
  const found = p.findIndex((value) => (mass += value) > reach);
  return found < 0 ? p.length - 1 : found;
}

/**
 * The n likeliest tokens under the logits, the n likeliest to be drawn from the `shaped` ones, and the token itself.
 * @param {Float64Array} logits
 * @param {Float64Array} shaped
 * @param {number} token
 * @param {Sampling} sampling
 * @param {number[]} seen
 * @param {number} n
 * @returns {Omit<Candidate, 'text'>[]}
 */
export function weigh(logits, shaped, token, sampling, seen, n) {
  const z = logSoftmax(logits);
  const shares = probabilities(shaped, sampling, seen);
  const among = new Set([...largest(z, n), ...largest(shares, n).filter((id) => shares[id] > 0), token]);
  return [...among].sort((a, b) => z[b] - z[a] || a - b).map((id) => ({ id, logprob: z[id], share: shares[id] }));
}

/**
 * The places of the n largest values.
 * @param {Float64Array} values
 * @param {number} n
 */
function largest(values, n) {
  /** @type {number[]} */
  const found = [];
  for (let id = 0; id < values.length; id++) {
    if (found.length === n && values[id] <= values[found[n - 1]]) continue;
    let at = found.length;
    while (at > 0 && values[found[at - 1]] < values[id]) at--;
    found.splice(at, 0, id);
    if (found.length > n) found.pop();
  }
  return found;
}
