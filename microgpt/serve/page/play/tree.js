// @ts-check
// The texts of a session as a tree: turns and answers with their tokens, and the ways to go on from any of them.

/**
 * @typedef {object} Candidate  A token that could stand in a place.
 * @property {number} id
 * @property {string} text
 * @property {number} logprob  The model's own, natural.
 * @property {number} share  The probability that it is drawn with, after temperature, penalty and filters.
 */

/**
 * @typedef {object} Token
 * @property {number} id
 * @property {string} piece  The text that it completes; "" while a character is not whole.
 * @property {string} text  Its own name, never empty.
 * @property {number | null} logprob
 * @property {Candidate[]} candidates
 */

/**
 * @typedef {object} End  How an answer ended.
 * @property {'stop' | 'length'} reason
 * @property {string} text
 * @property {Token | null} ending
 * @property {boolean} full
 * @property {number} seed
 */

/** @typedef {'prompt' | 'answer' | 'system' | 'user' | 'assistant'} Role */

/** A part of a text: a prompt or a turn that somebody typed, or an answer. Answers of the same parent are branches. */
export class Part {
  /**
   * @param {Part | null} parent
   * @param {Role} role
   * @param {{text?: string, tokens?: Token[], seed?: number | null, note?: string}} [given]
   */
  constructor(parent, role, given = {}) {
    this.parent = parent;
    this.role = role;
    this.text = given.text ?? ''; // as it was typed
    this.tokens = given.tokens ?? []; // of a typed part empty until it is scored
    this.seed = given.seed ?? null;
    this.note = given.note ?? ''; // how it came to be
    /** @type {string} */
    this.model = parent ? parent.model : ''; // whose text it is
    this.dropped = 0; // tokens that the context did not hold
    this.cut = -1; // the first token that is not all before a stop; -1 for none
    this.whole = ''; // its text, where tokens are cut
    this.running = false;
    /** @type {End | null} */
    this.end = null;
    /** @type {Part[]} */
    this.children = [];
    /** @type {Part | null} */
    this.chosen = null; // the child that was looked at last
    if (parent) {
      parent.children.push(this);
      parent.chosen = this;
    }
  }

  /** Whether the model has written it. */
  get written() {
    return this.role === 'answer' || this.role === 'assistant';
  }

  /** Its text: as it was typed, or of its tokens up to a stop. */
  get shown() {
    if (!this.written && (this.text || !this.tokens.length)) return this.text;
    return this.cut < 0 ? text(this.tokens) : this.whole;
  }

  /** The token that ended it, as one that can be chosen otherwise. */
  get ending() {
    return this.end?.ending ?? null;
  }
}

/** @param {Token[]} tokens */
export function text(tokens) {
  return tokens.map((token) => token.piece).join('');
}

/**
 * Note how an answer ended; tokens behind a stop are cut.
 * @param {Part} part
 * @param {number} begin  How many tokens it had before this request.
 * @param {End} end
 */
export function finish(part, begin, end) {
  part.end = end;
  part.seed = end.seed;
  let length = 0;
  for (let at = begin; at < part.tokens.length; at++) {
    length += part.tokens[at].piece.length;
    if (length > end.text.length) {
      part.whole = text(part.tokens.slice(0, begin)) + end.text;
      part.cut = at;
      return;
    }
  }
}

/** @param {Token[]} tokens */
export function ids(tokens) {
  return tokens.map((token) => token.id);
}

/**
 * The parts from the beginning to a part.
 * @param {Part | null} part
 * @returns {Part[]}
 */
export function path(part) {
  const found = [];
  for (let each = part; each; each = each.parent) found.unshift(each);
  return found;
}

/**
 * The part that is reached from one by the children looked at last.
 * @param {Part} part
 */
export function deepest(part) {
  while (part.chosen) part = part.chosen;
  return part;
}

/**
 * Look at a part: its ancestors choose it.
 * @param {Part} part
 */
export function choose(part) {
  for (let each = part; each.parent; each = each.parent) each.parent.chosen = each;
  return deepest(part);
}

/**
 * The part of a request that says what an answer goes on from. Tokens that are known go as ids, so that a text goes on
 * from exactly what was shown.
 * @param {Part} answer
 * @returns {Record<string, any>}
 */
export function request(answer) {
  const before = path(answer.parent);
  const known = before.every((part) => part.tokens.length > 0 || part.text === '');
  /** @type {Record<string, any>} */
  const body = { answer: ids(answer.tokens), draws: answer.tokens.length, echo: !known || answer.tokens.some(partial) };
  if (answer.role === 'assistant') {
    body.turns = before.map((part) =>
      part.text ? { role: part.role, content: part.text } : { role: part.role, tokens: ids(part.tokens) },
    );
  } else {
    const prompt = before[0];
    if (prompt.tokens.length) body.tokens = ids(prompt.tokens);
    else body.text = prompt.text;
  }
  return body;
}

/**
 * A token of which only the id is known yet; the next request tells the rest.
 * @param {number} id
 * @returns {Token}
 */
export function unscored(id) {
  return { id, piece: '', text: 'bytes:', logprob: null, candidates: [] };
}

/** @param {Token} token */
function partial(token) {
  return token.piece === '' && token.text.startsWith('bytes:');
}

/**
 * Give the tokens of a scored prompt to the parts that they belong to.
 * @param {Part} answer
 * @param {Token[]} tokens
 * @param {number} dropped
 * @param {Record<string, number>} special
 */
export function scored(answer, tokens, dropped, special) {
  const n = answer.tokens.length;
  const before = path(answer.parent);
  const head = tokens.slice(0, tokens.length - n);
  for (const [i, token] of tokens.slice(tokens.length - n).entries()) answer.tokens[i] = token;
  if (answer.role === 'answer') {
    before[0].tokens = head;
    before[0].dropped = dropped;
    return;
  }
  const roles = new Map([special.system, special.user, special.assistant].map((id) => [id, true]));
  /** @type {Token[][]} */
  const turns = [];
  for (const token of head) {
    if (roles.has(token.id)) turns.push([]);
    else if (token.id !== special.end_turn) turns.at(-1)?.push(token);
  }
  turns.pop(); // the role of the answer
  for (let i = before.length - 1, j = turns.length - 1; i >= 0 && j >= 0; i--, j--) {
    const known = before[i].tokens;
    if (!known.length || ids(known).join() === ids(turns[j]).join()) before[i].tokens = turns[j];
  }
  answer.dropped = dropped;
}

/**
 * Another token in a place of a part: a new part beside it, to go on from. Returns the part to generate, or one that is
 * complete where the token is the end.
 * @param {Part} part
 * @param {number} at  The place; behind the last token it is that of the ending.
 * @param {Candidate} candidate
 * @param {number} end  The token that ends a text.
 * @returns {Part}
 */
export function fork(part, at, candidate, end) {
  const old = part.tokens[at] ?? part.ending;
  const name = (/** @type {{id: number, text: string} | null} */ token) => (token?.id === end ? 'the end' : `“${token?.text ?? ''}”`);
  const note = `${name(candidate)} instead of ${name(old)} at token ${at + 1}`;
  const kept = part.tokens.slice(0, at);
  const ends = candidate.id === end;
  if (!ends) {
    const piece = candidate.text.startsWith('bytes:') ? '' : candidate.text;
    kept.push({ ...candidate, piece, candidates: old?.candidates ?? [] });
  }
  if (part.written) {
    const sibling = new Part(part.parent, part.role, { tokens: kept, seed: part.seed, note });
    if (ends) sibling.end = { reason: 'stop', text: text(kept), ending: old && { ...old, ...candidate }, full: false, seed: part.seed ?? 0 };
    return sibling;
  }
  const turn = new Part(part.parent, part.role, { tokens: kept, note });
  if (part.role === 'prompt') turn.text = text(kept);
  return new Part(turn, part.role === 'prompt' ? 'answer' : 'assistant');
}
