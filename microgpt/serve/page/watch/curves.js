// @ts-check
// The numbers of one run, as the stream brings them, and what is computed from them.

/** @typedef {Record<string, (number | null)[]>} Columns */
/** @typedef {{training: Columns, held_out: Columns, rows: number}} Series */

const SMOOTH = 50; // parts of the range that is shown, over which a loss is averaged
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
    while (i > 0 && Number(seconds[last]) - Number(seconds[i]) < 5 && last - i < 200) i--;
    const spent = Number(seconds[last]) - Number(seconds[i]);
    return spent > 0 ? (Number(step[last]) - Number(step[i])) / spent : 0;
  }

  /** Seconds until the planned end, while it is trained; null where they cannot be told. */
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
 * A moving average, over a fiftieth of the values around each.
 * @param {(number | null)[]} values
 * @returns {(number | null)[]}
 */
export function smooth(values) {
  const reach = Math.max(1, Math.round(values.length / SMOOTH / 2));
  const sums = [0];
  const counts = [0];
  values.forEach((value, i) => {
    sums.push(sums[i] + (value ?? 0));
    counts.push(counts[i] + (value === null ? 0 : 1));
  });
  return values.map((_, i) => {
    const before = Math.min(reach, i);
    const after = Math.min(before, values.length - 1 - i); // at the beginning, where a loss falls, not more than before
    const count = counts[i + after + 1] - counts[i - before];
    return count ? (sums[i + after + 1] - sums[i - before]) / count : null;
  });
}

/**
 * Tokens per second around each point.
 * @param {Columns} training
 * @returns {(number | null)[]}
 */
export function rates(training) {
  const { tokens = [], seconds = [] } = training;
  const reach = Math.max(1, Math.round(seconds.length / 100));
  return seconds.map((_, i) => {
    const from = Math.max(0, i - reach);
    const to = Math.min(seconds.length - 1, i + reach);
    const spent = Number(seconds[to]) - Number(seconds[from]);
    return spent > 0 ? (Number(tokens[to]) - Number(tokens[from])) / spent : null;
  });
}
