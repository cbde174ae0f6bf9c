// @ts-check
// The formula of each kind of operation: which numbers a number is computed from, and its derivative by each of them.
//
// For an output number `out` of an operation, and the number `index` of its input `input`:
//   from(out)                  the numbers it is computed from, as [input, index]
//   to(input, index)           the output numbers that an input's number is read for
//   value(out)                 the output number, computed here again
//   slope(input, index, out)   its derivative by an input's number; 0 where it does not read it
// The gradient of a number is the sum, over all that read it, of their gradient times the slope.

/** @typedef {import('./numbers.js').Step} Step */
/** @typedef {import('./numbers.js').Operation} Operation */

/**
 * @typedef {object} Formula
 * @property {(out: number) => [number, number][]} from
 * @property {(input: number, index: number) => number[]} to
 * @property {(out: number) => number} value
 * @property {(input: number, index: number, out: number) => number} slope
 */

const EPSILON = 1e-5; // of the norm
const GELU = Math.sqrt(2 / Math.PI);

/**
 * The formula of an operation with its numbers.
 * @param {Step} step
 * @param {Operation} operation
 * @returns {Formula}
 */
export function formula(step, operation) {
  const found = known.get(operation) ?? KINDS[operation.kind](new Given(step, operation));
  known.set(operation, found);
  return found;
}

/** @type {WeakMap<Operation, Formula>} */
const known = new WeakMap();

/** The numbers of an operation. */
class Given {
  /**
   * @param {Step} step
   * @param {Operation} operation
   */
  constructor(step, operation) {
    this.in = operation.inputs.map((name) => step.array(name).values.map((x) => x ?? NaN));
    this.shapes = operation.inputs.map((name) => step.array(name).shape);
    const out = step.array(operation.name);
    this.out = out.values.map((x) => x ?? NaN);
    this.shape = out.shape;
    this.last = out.shape.at(-1) ?? 1;
    this.constants = operation.constants;
  }
}

/** @param {number} n @returns {number[]} */
const range = (n) => Array.from({ length: n }, (_, i) => i);

/**
 * Each number by itself.
 * @param {(x: number, at: number) => number} value
 * @param {(x: number, at: number) => number} slope
 * @returns {(given: Given) => Formula}
 */
function each(value, slope) {
  return ({ in: [x] }) => ({
    from: (out) => [[0, out]],
    to: (_, index) => [index],
    value: (out) => value(x[out], out),
    slope: (_, index, out) => (index === out ? slope(x[out], out) : 0),
  });
}

/** @param {Given} given @returns {Formula} */
function take({ in: [w], last, constants }) {
  const place = (/** @type {number} */ out) => constants.rows[Math.floor(out / last)] * last + (out % last);
  const rows = range(constants.rows.length);
  return {
    from: (out) => [[0, place(out)]],
    to: (_, index) =>
      rows.filter((t) => constants.rows[t] === Math.floor(index / last)).map((t) => t * last + (index % last)),
    value: (out) => w[place(out)],
    slope: (_, index, out) => (place(out) === index ? 1 : 0),
  };
}

/** @param {Given} given @returns {Formula} */
function add({ in: [a, b] }) {
  return {
    from: (out) => [[0, out], [1, out]],
    to: (_, index) => [index],
    value: (out) => a[out] + b[out],
    slope: (_, index, out) => (index === out ? 1 : 0),
  };
}

/** @param {Given} given @returns {Formula} */
function norm({ in: [x], out: y, constants: { size } }) {
  const start = (/** @type {number} */ i) => Math.floor(i / size) * size;
  const group = (/** @type {number} */ i) => range(size).map((j) => start(i) + j);
  const scale = (/** @type {number} */ i) =>
    (group(i).reduce((sum, j) => sum + x[j] * x[j], 0) / size + EPSILON) ** -0.5;
  return {
    from: (out) => group(out).map((i) => [0, i]),
    to: (_, index) => group(index),
    value: (out) => x[out] * scale(out),
    slope: (_, index, out) => scale(out) * ((index === out ? 1 : 0) - (y[out] * y[index]) / size),
  };
}

/** @param {Given} given @returns {Formula} */
function linear({ in: [x, w], shapes: [[T, n]], last: m }) {
  const at = (/** @type {number} */ out) => [Math.floor(out / m), out % m];
  return {
    from: (out) => {
      const [t, o] = at(out);
      return range(n).flatMap((i) => /** @type {[number, number][]} */ ([[1, o * n + i], [0, t * n + i]]));
    },
    to: (input, index) =>
      input === 0
        ? range(m).map((o) => Math.floor(index / n) * m + o)
        : range(T).map((t) => t * m + Math.floor(index / n)),
    value: (out) => {
      const [t, o] = at(out);
      return range(n).reduce((sum, i) => sum + w[o * n + i] * x[t * n + i], 0);
    },
    slope: (input, index, out) => {
      const [t, o] = at(out);
      const [row, i] = [Math.floor(index / n), index % n];
      if (input === 0) return row === t ? w[o * n + i] : 0;
      return row === o ? x[t * n + i] : 0;
    },
  };
}

/** @param {Given} given @returns {Formula} */
function rotate({ in: [x], last, constants: { size, cos, sin, partner } }) {
  /** @param {number} out @returns {[number, number, number]} the partner's place, cosine and sine */
  const of = (out) => {
    const [t, c] = [Math.floor(out / last), (out % last) % size];
    return [out - c + partner[c], cos[t * size + c], sin[t * size + c]];
  };
  return {
    from: (out) => [[0, out], [0, of(out)[0]]],
    to: (_, index) => [index, of(index)[0]],
    value: (out) => x[out] * of(out)[1] + x[of(out)[0]] * of(out)[2],
    slope: (_, index, out) => (index === out ? of(out)[1] : index === of(out)[0] ? of(out)[2] : 0),
  };
}

/** @param {Given} given @returns {Formula} */
function scores({ in: [q, k], shape: [, T], shapes: [[, D]], constants: { size } }) {
  const factor = size ** -0.5;
  /** @param {number} out @returns {[number, number]} where query and key of a score begin */
  const begin = (out) => {
    const [h, t, s] = [Math.floor(out / (T * T)), Math.floor(out / T) % T, out % T];
    return [t * D + h * size, s * D + h * size];
  };
  return {
    from: (out) => {
      const [a, b] = begin(out);
      return range(size).flatMap((c) => /** @type {[number, number][]} */ ([[0, a + c], [1, b + c]]));
    },
    to: (input, index) => {
      const [at, h] = [Math.floor(index / D), Math.floor((index % D) / size)];
      return input === 0
        ? range(at + 1).map((s) => (h * T + at) * T + s)
        : range(T - at).map((i) => (h * T + at + i) * T + at);
    },
    value: (out) => {
      const [a, b] = begin(out);
      return range(size).reduce((sum, c) => sum + q[a + c] * k[b + c], 0) * factor;
    },
    slope: (input, index, out) => {
      const [a, b] = begin(out);
      const [ours, others, numbers] = input === 0 ? [a, b, k] : [b, a, q];
      return index >= ours && index < ours + size ? numbers[others + index - ours] * factor : 0;
    },
  };
}

/** @param {Given} given @returns {Formula} */
function softmax({ in: [x], out: p, last: n }) {
  const group = (/** @type {number} */ i) =>
    range(n).map((j) => Math.floor(i / n) * n + j).filter((j) => !Number.isNaN(x[j])); // without what is masked
  return {
    from: (out) => group(out).map((i) => [0, i]),
    to: (_, index) => group(index),
    value: (out) => {
      const top = Math.max(...group(out).map((i) => x[i]));
      return Math.exp(x[out] - top) / group(out).reduce((sum, i) => sum + Math.exp(x[i] - top), 0);
    },
    slope: (_, index, out) => p[out] * ((index === out ? 1 : 0) - p[index]),
  };
}

/** @param {Given} given @returns {Formula} */
function mix({ in: [p, v], shape: [T, D], constants: { size } }) {
  const weight = (/** @type {number} */ out, /** @type {number} */ s) =>
    (Math.floor((out % D) / size) * T + Math.floor(out / D)) * T + s;
  return {
    from: (out) =>
      range(Math.floor(out / D) + 1).flatMap(
        (s) => /** @type {[number, number][]} */ ([[0, weight(out, s)], [1, s * D + (out % D)]]),
      ),
    to: (input, index) => {
      if (input === 0) {
        const [h, t] = [Math.floor(index / (T * T)), Math.floor(index / T) % T];
        return range(size).map((c) => t * D + h * size + c);
      }
      const s = Math.floor(index / D);
      return range(T - s).map((i) => (s + i) * D + (index % D));
    },
    value: (out) =>
      range(Math.floor(out / D) + 1).reduce((sum, s) => sum + p[weight(out, s)] * v[s * D + (out % D)], 0),
    slope: (input, index, out) => {
      const s = input === 0 ? index % T : Math.floor(index / D);
      if (s > Math.floor(out / D)) return 0;
      if (input === 0) return weight(out, s) === index ? v[s * D + (out % D)] : 0;
      return s * D + (out % D) === index ? p[weight(out, s)] : 0;
    },
  };
}

/** @param {Given} given @returns {Formula} */
function losses({ in: [p], shapes: [[, V]], constants: { targets } }) {
  const place = (/** @type {number} */ t) => t * V + targets[t];
  return {
    from: (out) => [[0, place(out)]],
    to: (_, index) => (place(Math.floor(index / V)) === index ? [Math.floor(index / V)] : []),
    value: (out) => -Math.log(p[place(out)]),
    slope: (_, index, out) => (place(out) === index ? -1 / p[index] : 0),
  };
}

/** @param {Given} given @returns {Formula} */
function mean({ in: [x], constants: { weights } }) {
  return {
    from: () => range(x.length).map((t) => [0, t]),
    to: () => [0],
    value: () => x.reduce((sum, loss, t) => sum + loss * weights[t], 0),
    slope: (_, index) => weights[index],
  };
}

/** @type {Record<string, (given: Given) => Formula>} */
const KINDS = {
  take,
  add,
  norm,
  linear,
  rotate,
  scores,
  softmax,
  mix,
  losses,
  mean,
  scale: (given) => each((x, at) => x * given.constants.factors[at], (_, at) => given.constants.factors[at])(given),
  relu: each((x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)),
  relu2: each((x) => Math.max(x, 0) ** 2, (x) => 2 * Math.max(x, 0)),
  gelu: each(
    (x) => 0.5 * x * (1 + Math.tanh(GELU * (x + 0.044715 * x ** 3))),
    (x) => {
      const t = Math.tanh(GELU * (x + 0.044715 * x ** 3));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU * (1 + 3 * 0.044715 * x * x);
    },
  ),
  softcap: (given) => {
    const cap = given.constants.cap;
    return each((x) => cap * Math.tanh(x / cap), (x) => 1 - Math.tanh(x / cap) ** 2)(given);
  },
};

/**
 * The operations that read a number, each with its share of the gradient.
 * @param {Step} step
 * @param {string} name
 * @param {number} index
 * @returns {{operation: Operation, uses: {out: number, slope: number, gradient: number}[]}[]}
 */
export function readersOf(step, name, index) {
  return (step.readers.get(name) ?? []).map(({ operation, input }) => {
    const { to, slope } = formula(step, operation);
    const gradients = step.array(operation.name).gradients;
    const uses = to(input, index).map((out) => ({
      out,
      slope: slope(input, index, out),
      gradient: gradients[out] ?? 0,
    }));
    return { operation, uses };
  });
}
