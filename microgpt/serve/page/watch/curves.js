// @ts-check
// The numbers of one run, as the stream brings them, and what is computed from them.

/** @typedef {Record<string, (number | null)[]>} Columns */
/** @typedef {{training: Columns, held_out: Columns, rows: number}} Series */

const SMOOTH = 50; // the parts of a range that are averaged over
export const MOST = 6000; // points of a curve; beyond, the history is asked for again

export class Curves {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** @type {Series} */
    this.series = { training: { step: [] }, held_out: { step: [] }, rows: 0 };
    /** @type {import('../types.js').Run | null} */
    this.facts = null;
    /** @type {{step: number, text: string, final: boolean}[]} */
    this.samples = [];
    this.gone = false;
  }

  /** @param {any} event  Of the stream. */
  take(event) {
    if (event.kind === 'facts') this.facts = event.facts;
    if (event.kind === 'samples') this.samples = event.samples;
    if (event.kind === 'history') this.series = event.series;
    if (event.kind === 'grown') {
      append(this.series.training, event.series.training);
      append(this.series.held_out, event.series.held_out);
      this.series.rows = event.series.rows;
    }
    this.gone = event.kind === 'gone';
  }

  get full() {
    return this.series.training.step.length > MOST;
  }

  /** The steps per second of late; 0 where they are not known. */
  get speed() {
    const { step, seconds } = this.series.training;
    const last = step.length - 1;
    if (last < 1 || !seconds) return 0;
    let i = last;
    while (i > 0 && Number(seconds[last]) - Number(seconds[i]) < 5) i--;
    const spent = Number(seconds[last]) - Number(seconds[i]);
    return spent > 0 ? (Number(step[last]) - Number(step[i])) / spent : 0;
  }

  /** Seconds until the planned end, while it is trained; null where they are not known. */
  get left() {
    if (this.facts?.state !== 'running' || !this.facts.steps_planned || !this.speed) return null;
    return Math.max(0, this.facts.steps_planned - this.facts.steps_done) / this.speed;
  }
}

/**
 * @param {Columns} to
 * @param {Columns} from
 */
function append(to, from) {
  for (const [name, values] of Object.entries(from)) (to[name] ??= []).push(...values);
}

/**
 * A moving average, over a fiftieth of the range around each value; at the beginning, where a loss falls, over less.
 * @param {number[]} x  Ascending.
 * @param {(number | null)[]} values
 * @returns {(number | null)[]}
 */
export function smooth(x, values) {
  const sums = [0];
  const counts = [0];
  values.forEach((value, i) => {
    sums.push(sums[i] + (value ?? 0));
    counts.push(counts[i] + (value === null ? 0 : 1));
  });
  const reach = (x[x.length - 1] - x[0]) / SMOOTH / 2;
  return around(x, (i) => Math.min(reach, x[i] - x[0]), (low, high) => {
    const count = counts[high + 1] - counts[low];
    return count ? (sums[high + 1] - sums[low]) / count : null;
  });
}

/**
 * Tokens per second around each point.
 * @param {Columns} training
 * @returns {(number | null)[]}
 */
export function rates(training) {
  const tokens = /** @type {number[]} */ (training.tokens ?? []);
  const seconds = /** @type {number[]} */ (training.seconds ?? []);
  const reach = (seconds[seconds.length - 1] - seconds[0]) / SMOOTH / 2;
  return around(seconds, () => reach, (low, high) => {
    const [from, to] = low === high ? [Math.max(0, low - 1), Math.min(seconds.length - 1, high + 1)] : [low, high];
    const spent = seconds[to] - seconds[from];
    return spent > 0 ? (tokens[to] - tokens[from]) / spent : null;
  });
}

/**
 * A value for each place, computed from the first and the last place that are within reach.
 * @template Value
 * @param {number[]} x  Ascending.
 * @param {(i: number) => number} reach
 * @param {(low: number, high: number) => Value} compute
 * @returns {Value[]}
 */
function around(x, reach, compute) {
  let low = 0;
  let high = 0;
  return x.map((at, i) => {
    const far = reach(i);
    while (low < i && x[low] < at - far) low++;
    high = Math.max(high, i);
    while (high + 1 < x.length && x[high + 1] <= at + far) high++;
    return compute(low, high);
  });
}
