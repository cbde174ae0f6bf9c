// @ts-check
// A look inside: the text and the changes that are asked about, the newest answer, and the position that is chosen.

import { ApiError, aborted, post } from '../api.js';

/** @typedef {import('../types.js').Context} Context */

/** @typedef {{part: 'layer' | 'attention' | 'mlp' | 'head' | 'neuron', layer: number, index: number, scale: number}} Change */
/** @typedef {{position: number, token: number, piece: string}} Swap */

/**
 * @typedef {object} Kept  Stays while a run is chosen, also at another checkpoint and in other views.
 * @property {string | null} text  Null until there is one.
 * @property {boolean} message
 * @property {Change[]} changes
 * @property {Swap[]} swaps
 * @property {number} position
 * @property {number} layer
 * @property {number} head
 * @property {number} neuron
 * @property {string} matrix
 * @property {string} embedding
 * @property {string} panel
 */

/**
 * @typedef {object} Text  The answer of /api/inside/text.
 * @property {number[]} tokens
 * @property {string[]} pieces
 * @property {number} dropped
 * @property {number} n_layer
 * @property {number} n_head
 * @property {number} n_embd
 * @property {number} vocab_size
 * @property {number} block_size
 * @property {string[]} stages
 * @property {number[][]} norms
 * @property {(number | null)[]} bits  The surprise of each token.
 */

/** The news: another text was looked at, another position chosen, or another layer and head. */
/** @typedef {'look' | 'position' | 'head'} News */

/** @type {Map<string, Kept>} */
const kept = new Map();

export class Session {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    const fresh = { text: null, message: true, changes: [], swaps: [], position: Infinity, layer: 0, head: 0, neuron: -1 };
    this.kept = kept.get(context.run) ?? { ...fresh, matrix: 'wte', embedding: 'wte', panel: 'attention' };
    kept.set(context.run, this.kept);
    /** @type {Text | null} */
    this.text = null;
    /** @type {Attention | null} */
    this.attention = null;
    /** @type {ApiError | null} */
    this.error = null;
    this.looks = 0; // answers so far, by which a panel knows one that comes too late
    this.aborter = new AbortController();
    /** @type {((news: News) => void)[]} */
    this.listeners = [];
    this.busy = false;
    this.again = false;
  }

  /** @param {(news: News) => void} listener */
  listen(listener) {
    this.listeners.push(listener);
  }

  /** @param {News} news */
  tell(news) {
    for (const listener of this.listeners) listener(news);
  }

  /** The body that every question about the text has. */
  get question() {
    const { text, message, changes } = this.kept;
    const swaps = this.kept.swaps.map(({ position, token }) => ({ position, token }));
    return { model: this.context.model, text: text ?? '', message, changes, swaps };
  }

  /**
   * @param {string} subject
   * @param {object} [more]
   * @returns {Promise<any>}
   */
  ask(subject, more = {}) {
    return post(`/api/inside/${subject}`, { ...this.question, ...more }, this.aborter.signal);
  }

  /**
   * The same of the model alone.
   * @param {string} subject
   * @param {object} [more]
   * @returns {Promise<any>}
   */
  askModel(subject, more = {}) {
    return post(`/api/inside/${subject}`, { model: this.context.model, ...more }, this.aborter.signal);
  }

  /** Look at the text, at its end if that was chosen; while an answer is awaited, the newest question alone waits for its turn. */
  async look() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      do await this.lookOnce();
      while (this.again);
    } finally {
      this.busy = false;
    }
  }

  async lookOnce() {
    this.again = false;
    try {
      const [text, attention] = await Promise.all([this.ask('text'), this.packed()]);
      const atEnd = this.kept.position >= (this.text?.tokens.length ?? Infinity) - 1;
      this.text = text;
      this.attention = new Attention(text, attention);
      this.error = null;
      const last = text.tokens.length - 1;
      this.kept.position = atEnd ? last : Math.min(Math.max(0, this.kept.position), last);
      this.kept.layer = Math.min(this.kept.layer, text.n_layer - 1);
      this.kept.head = Math.min(this.kept.head, text.n_head - 1);
    } catch (error) {
      if (aborted(error)) return;
      if (!(error instanceof ApiError)) throw error;
      this.error = error;
    }
    this.looks += 1;
    this.tell('look');
  }

  /**
   * @param {string} [model]
   * @returns {Promise<ArrayBuffer>}
   */
  async packed(model = this.context.model) {
    return post('/api/inside/attention', { ...this.question, model }, this.aborter.signal, 'arrayBuffer');
  }

  /** @param {number} position */
  choose(position) {
    const last = (this.text?.tokens.length ?? 1) - 1;
    const next = Math.max(0, Math.min(last, position));
    if (next === this.kept.position) return;
    this.kept.position = next;
    this.tell('position');
  }

  /**
   * @param {number} layer
   * @param {number} head
   */
  chooseHead(layer, head) {
    this.kept.layer = layer;
    this.kept.head = head;
    this.tell('head');
  }

  /**
   * Another text, of which no token is swapped yet.
   * @param {string} text
   */
  write(text) {
    this.kept.text = text;
    this.kept.swaps = [];
    this.look();
  }

  /**
   * Put a change in the place of one of the same part, or take it back at scale 1.
   * @param {Change} change
   */
  change(change) {
    const others = this.kept.changes.filter((each) => !samePart(each, change));
    this.kept.changes = change.scale === 1 ? others : [...others, change];
    this.look();
  }

  /** @param {Swap} swap */
  swap(swap) {
    this.kept.swaps = [...this.kept.swaps.filter((each) => each.position !== swap.position), swap];
    this.look();
  }

  /** @param {number} position */
  unswap(position) {
    this.kept.swaps = this.kept.swaps.filter((each) => each.position !== position);
    this.look();
  }

  undo() {
    this.kept.changes = [];
    this.kept.swaps = [];
    this.look();
  }

  /**
   * How much a part adds, 1 where it is not changed.
   * @param {Omit<Change, 'scale'>} part
   */
  scaleOf(part) {
    return this.kept.changes.find((each) => samePart(each, part))?.scale ?? 1;
  }

  end() {
    this.listeners = [];
    this.aborter.abort();
  }
}

/**
 * @param {Omit<Change, 'scale'>} a
 * @param {Omit<Change, 'scale'>} b
 */
function samePart(a, b) {
  return a.part === b.part && a.layer === b.layer && a.index === b.index;
}

/** The attention of all layers and heads, as /api/inside/attention packs it. */
export class Attention {
  /**
   * @param {Text} text
   * @param {ArrayBuffer} packed
   */
  constructor(text, packed) {
    this.length = text.tokens.length;
    this.heads = text.n_head;
    this.size = (this.length * (this.length + 1)) / 2;
    this.weights = new Uint16Array(packed);
  }

  /**
   * The weight, 0 to 1, of position `to` in what position `from` takes in.
   * @param {number} layer
   * @param {number} head
   * @param {number} from
   * @param {number} to
   */
  weight(layer, head, from, to) {
    if (to > from) return 0;
    return this.weights[(layer * this.heads + head) * this.size + (from * (from + 1)) / 2 + to] / 65535;
  }

  /**
   * A small picture of a head: in each cell the largest weight of a block, so that no thin line is lost.
   * @param {number} layer
   * @param {number} head
   * @param {number} most  Cells of a side.
   */
  thumbnail(layer, head, most) {
    const { length, size, weights } = this;
    const step = Math.ceil(length / most);
    const side = Math.ceil(length / step);
    const cells = new Uint16Array(side * side);
    let at = (layer * this.heads + head) * size;
    for (let from = 0; from < length; from++) {
      const row = Math.floor(from / step) * side;
      for (let to = 0; to <= from; to++, at++) {
        const cell = row + Math.floor(to / step);
        if (weights[at] > cells[cell]) cells[cell] = weights[at];
      }
    }
    return { side, cells };
  }
}
