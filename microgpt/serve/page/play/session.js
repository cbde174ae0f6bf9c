// @ts-check
// The answer under way: one answer at a time is generated, scored, stopped and gone on with.

import { aborted, post, stream } from '../api.js';
import { Part, choose, finish, path, request, scored } from './tree.js';

/**
 * @typedef {object} Facts  The answer of GET /api/play/{model}.
 * @property {string} name
 * @property {boolean} chat
 * @property {string[]} roles
 * @property {number} block_size
 * @property {number} vocab_size
 * @property {number} parameters
 * @property {number} temperature
 * @property {Record<string, number>} special
 * @property {number} end
 * @property {number | null} step
 */

/**
 * @typedef {object} Listener
 * @property {() => void} begun  An answer was asked for; to draw anything now would hold its first token up.
 * @property {() => void} changed  Another text is looked at, or the state of this one has changed.
 * @property {(part: Part) => void} token  A part has one more token.
 * @property {(part: Part) => void} ended
 * @property {(error: unknown) => void} failed
 */

const PATIENCE = 50; // milliseconds of waiting for a token after which the page tells that one is on its way

export class Session {
  /**
   * @param {string} model
   * @param {Facts} facts
   * @param {() => Record<string, any>} settings
   * @param {Listener} listener
   */
  constructor(model, facts, settings, listener) {
    this.model = model;
    this.facts = facts;
    this.settings = settings;
    this.listener = listener;
    /** @type {Part[]} */
    this.roots = [];
    /** @type {Part | null} */
    this.current = null; // the last part of the text that is looked at
    /** @type {AbortController | null} */
    this.running = null;
    this.ended = false;
  }

  /** The parts that are looked at. */
  get path() {
    return path(this.current);
  }

  /** The answer at the end of the text. */
  get answer() {
    return this.current?.written ? this.current : null;
  }

  /** Whether the answer can be gone on with. */
  get continues() {
    const answer = this.answer;
    if (!answer || answer.running || !answer.tokens.length) return false;
    return !answer.end || (!answer.end.full && !answer.ending); // the model's own end would only be drawn again
  }

  /**
   * Look at a part and what follows it.
   * @param {Part} part
   */
  look(part) {
    this.stop();
    this.current = choose(part);
    this.listener.changed();
  }

  /**
   * A new first part.
   * @param {Part} part
   */
  begin(part) {
    part.model = this.model;
    for (const child of part.children) child.model = this.model;
    this.roots.push(part);
    return part;
  }

  /**
   * Generate, from where the part stands now.
   * @param {Part} answer
   */
  async generate(answer) {
    this.stop();
    this.current = choose(answer);
    const control = (this.running = new AbortController());
    const begin = answer.tokens.length;
    answer.running = true;
    answer.end = null;
    answer.cut = -1;
    this.listener.begun();
    let shown = false;
    const show = () => {
      shown = true;
      this.listener.changed();
    };
    if (begin) show(); // the tokens that it begins with
    const waiting = setTimeout(() => shown || show(), PATIENCE);
    try {
      const settings = this.settings();
      const seed = answer.seed ?? settings.seed ?? Math.floor(Math.random() * 2 ** 32);
      answer.seed = seed;
      const body = { model: this.model, ...settings, ...request(answer), seed };
      for await (const event of stream('/api/play', body, control.signal)) {
        clearTimeout(waiting);
        if (this.ended) return;
        if (event.prompt) {
          scored(answer, event.prompt, event.dropped, this.facts.special);
          show();
        } else if (event.token) {
          if (!shown) show();
          answer.tokens.push(event.token);
          this.listener.token(answer);
        } else if (event.end) finish(answer, begin, event.end);
      }
    } catch (error) {
      if (!aborted(error) && !this.ended) this.listener.failed(error);
    }
    clearTimeout(waiting);
    answer.running = false;
    if (this.running === control) this.running = null;
    if (this.ended) return;
    this.listener.changed();
    this.listener.ended(answer);
  }

  /**
   * Weigh the tokens that are looked at with the sampling that is set now.
   * @param {AbortSignal} signal
   */
  async weigh(signal) {
    const answer = this.answer;
    if (this.running) return;
    if (!answer) return this.current?.role === 'prompt' && this.current.text ? this.score(this.current, signal) : undefined;
    if (path(answer)[0].model !== this.model) return;
    const { max_tokens, seed, stop, ...settings } = this.settings();
    const { draws, echo, ...asked } = request(answer);
    const n = answer.tokens.length;
    const found = await post('/api/score', { model: this.model, ...settings, ...asked }, signal);
    if (this.ended || this.running || answer.tokens.length !== n) return;
    scored(answer, found.prompt, found.dropped, this.facts.special);
    if (this.answer === answer) this.listener.changed();
  }

  /** Stop generating; what has come stays. */
  stop() {
    this.running?.abort();
    this.running = null;
  }

  /**
   * Another answer in place of one: the next choice of its seed.
   * @param {Part} answer
   */
  regenerate(answer) {
    const seed = this.settings().seed;
    const fresh = answer.parent?.children.filter((child) => !child.note).length ?? 0;
    const given = seed === undefined ? null : seed + fresh;
    return this.generate(new Part(answer.parent, answer.role, { seed: given }));
  }

  /**
   * Score a typed part that is the first one.
   * @param {Part} part
   * @param {AbortSignal} signal
   */
  async score(part, signal) {
    const typed = part.text;
    const { max_tokens, seed, stop, ...settings } = this.settings();
    const found = await post('/api/score', { model: this.model, ...settings, text: typed }, signal);
    if (part.text !== typed || this.ended) return;
    part.tokens = found.prompt;
    part.dropped = found.dropped;
    if (path(this.current).includes(part)) this.listener.changed();
  }

  /**
   * The same at another checkpoint: what was typed is scored again, and answered with the same seed.
   * @param {string} model
   */
  follow(model) {
    this.stop();
    this.model = model;
    const answer = this.answer;
    if (!answer) return;
    /** @type {Part | null} */
    let parent = null;
    for (const part of path(answer.parent)) {
      /** @type {Part[]} */
      const beside = parent ? parent.children : this.roots.filter((root) => root.model === model);
      const same = beside.find((each) => each.role === part.role && each.shown === part.shown);
      const given = part.written ? { tokens: part.tokens, seed: part.seed } : { text: part.shown };
      /** @type {Part} */
      const copy = same ?? new Part(parent, part.role, given);
      if (!same && !parent) this.begin(copy);
      parent = copy;
    }
    const known = parent?.children.find((each) => each.written && each.seed === answer.seed && !each.note);
    if (known) this.look(known);
    else this.generate(new Part(parent, answer.role, { seed: answer.seed }));
  }

  end() {
    this.ended = true;
    this.stop();
  }
}
