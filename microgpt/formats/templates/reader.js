// @ts-check
// Tokens that the model has read: of a text that has grown only the new ones are computed, a few at a time, so that
// the page stays awake.

import { weigh } from './sampling.js';

/** @typedef {import('./model.js').Model | import('./ensemble.js').Ensemble} Model */
/** @typedef {import('./sampling.js').Sampling} Sampling */
/** @typedef {{id: number, logprob: number, candidates: ReturnType<typeof weigh>}} Scored */

const AWAKE = 20; // milliseconds of computing between two looks of the page at its keys and frames

/** @param {number} milliseconds */
export const pause = (milliseconds = 0) => new Promise((done) => setTimeout(done, milliseconds));

export class Reader {
  /**
   * @param {Model} model
   * @param {boolean} [attends]  Whether attention's weights are kept.
   */
  constructor(model, attends = false) {
    this.model = model;
    this.attends = attends;
    /** @type {number[]} */
    this.tokens = [];
    /** @type {(Scored | null)[]} */
    this.scored = []; // each token as one that could have been another; null for the first
    /** @type {Uint16Array[]} */
    this.attention = []; // of each position, by layer and head: 65535 stands for 1
    /** @type {Float64Array} */
    this.logits = new Float64Array(0); // after the last token
    this.key = '';
    this.rested = 0;
  }

  /**
   * Read tokens; those that were read with the same sampling are not computed again. Then `scored`, `attention` and
   * `logits` are theirs, until something else is read.
   * @param {number[]} tokens
   * @param {Sampling} sampling
   * @param {number} n  Candidates of each token.
   * @param {AbortSignal} [signal]
   */
  async read(tokens, sampling, n, signal) {
    const key = JSON.stringify([sampling, n]);
    this.rested = performance.now();
    for (;;) {
      if (this.key !== key) this.cut(0);
      this.key = key;
      let same = 0;
      while (same < this.tokens.length && this.tokens[same] === tokens[same]) same++;
      if (same < this.tokens.length) this.cut(same);
      if (this.tokens.length === tokens.length) return;
      while (this.tokens.length < tokens.length && performance.now() - this.rested < AWAKE) {
        const id = tokens[this.tokens.length];
        this.push(id, this.tokens.length ? this.score(id, this.logits, sampling, n) : null);
      }
      await this.rest(signal); // another text may be read meanwhile
    }
  }

  /**
   * A token as one of those that could stand here.
   * @param {number} id
   * @param {Float64Array} shaped  The logits that it is drawn from.
   * @param {Sampling} sampling
   * @param {number} n
   * @returns {Scored}
   */
  score(id, shaped, sampling, n) {
    const candidates = weigh(this.logits, shaped, id, sampling, this.tokens, n);
    return { id, logprob: candidates.find((each) => each.id === id)?.logprob ?? 0, candidates };
  }

  /**
   * Read one more token.
   * @param {number} id
   * @param {Scored | null} scored
   */
  push(id, scored) {
    const at = this.tokens.length;
    const { n_layer, n_head } = this.model.options;
    const weights = this.attends ? new Uint16Array(n_layer * n_head * (at + 1)) : null;
    this.logits = this.model.logits(id, at, weights);
    this.tokens.push(id);
    this.scored.push(scored);
    if (weights) this.attention.push(weights);
  }

  /**
   * Forget all but the first tokens.
   * @param {number} n
   */
  cut(n) {
    this.tokens.length = this.scored.length = n;
    this.attention.length = Math.min(this.attention.length, n);
    if (n) this.logits = this.model.logits(this.tokens[n - 1], n - 1);
  }

  /** @param {AbortSignal} [signal] */
  async rest(signal) {
    if (performance.now() - this.rested >= AWAKE) {
      await pause();
      this.rested = performance.now();
    }
    signal?.throwIfAborted();
  }
}
