// @ts-check
// Text to tokens and back, for each kind of tokenizer. `about` is {kind, tokens, merges, special, pattern}:
// tokens by id; merges as pairs of ids, in the order of learning; special tokens by name.

/**
 * @typedef {object} About
 * @property {string} kind
 * @property {string[]} tokens  By id.
 * @property {[number, number][]} merges
 * @property {Record<string, number>} special
 * @property {string | null} pattern
 */

/** The printable character that GPT-2 writes for each byte. */
function byteLetters() {
  const visible = (/** @type {number} */ b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let hidden = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(visible(b) ? b : hidden++));
}

export class Tokenizer {
  /** @param {About} about */
  constructor(about) {
    this.about = about;
    this.special = new Map(Object.entries(about.special).map(([name, id]) => [id, name]));
    /** @type {Map<string, number>} */
    this.ids = new Map();
    about.tokens.forEach((token, id) => this.special.has(id) || this.ids.set(token, id));
    this.ranks = new Map(about.merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.pattern = about.pattern ? new RegExp(about.pattern, "gu") : null;
    this.letters = byteLetters();
    this.byte = new Map(this.letters.map((letter, b) => [letter, b]));
    this.firstMerge = about.tokens.length - about.merges.length - this.special.size;
  }

  /**
   * Tokens of a text. Throws RangeError with the character or word that the vocabulary lacks.
   * @param {string} text
   * @returns {number[]}
   */
  encode(text) {
    const { kind } = this.about;
    const pattern = /** @type {RegExp} */ (this.pattern);
    if (kind === "char") return this.lookUp([...text]);
    if (kind === "word" || kind === "word-lossy") return this.lookUp(text.match(pattern) ?? []);
    if (kind === "bpe") {
      const bytes = (/** @type {string} */ piece) => Array.from(new TextEncoder().encode(piece), (b) => this.letters[b]);
      return (text.match(pattern) ?? []).flatMap((piece) => this.merge(this.lookUp(bytes(piece))));
    }
    if (kind === "bpe-words") {
      const words = text.split(pattern).filter(Boolean).map((word) => [...word, " "]);
      return words.flatMap((word) => this.merge(this.lookUp(word)));
    }
    return this.merge(this.lookUp([...text]));
  }

  /** @param {string[]} pieces */
  lookUp(pieces) {
    return pieces.map((piece) => {
      const id = this.ids.get(piece) ?? this.about.special.unk;
      if (id === undefined) throw new RangeError(`This model does not know “${piece}”.`);
      return id;
    });
  }

  /**
   * Merge the pair that was learnt first, again and again.
   * @param {number[]} ids
   */
  merge(ids) {
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < ids.length; i++) {
        best = Math.min(best, this.ranks.get(`${ids[i]} ${ids[i + 1]}`) ?? Infinity);
      }
      if (best === Infinity) return ids;
      const [a, b] = this.about.merges[best], merged = [];
      for (let i = 0; i < ids.length; i++) {
        const pair = ids[i] === a && ids[i + 1] === b;
        merged.push(pair ? this.firstMerge + best : ids[i]);
        if (pair) i++;
      }
      ids = merged;
    }
  }

  /**
   * A function from the next token to the text that is certain by now.
   * @param {string | null} [last]  The token before it.
   */
  decoder(last = null) {
    const utf8 = new TextDecoder(), { kind, tokens } = this.about;
    const before = new Set(".,;:!?'\")-]}"), after = new Set("('\"[{");
    return (/** @type {number} */ id) => {
      if (this.special.has(id)) return "";
      const token = tokens[id];
      if (kind === "bpe") return utf8.decode(this.bytes(token), { stream: true });
      if (kind !== "word-lossy" && kind !== "bpe-words") return token;
      const first = last === null;
      const ends = kind === "bpe-words" ? last?.endsWith(" ") : !before.has(token) && !after.has(last ?? "");
      last = token;
      return (!first && ends ? " " : "") + (kind === "bpe-words" ? token.replace(/ $/, "") : token);
    };
  }

  /** @param {string} token */
  bytes(token) {
    return Uint8Array.from(token, (letter) => this.byte.get(letter) ?? 0);
  }

  /**
   * A token's own text after another one; a special token has a name, a part of a character its bytes.
   * @param {number} id
   * @param {number | null} [last]
   */
  spell(id, last = null) {
    if (this.special.has(id)) return `<${this.special.get(id)}>`;
    const { kind, tokens } = this.about;
    if (kind !== "bpe") return this.decoder(last === null || this.special.has(last) ? null : tokens[last])(id);
    const bytes = this.bytes(tokens[id]);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return `bytes:${Array.from(bytes, (b) => `\\x${b.toString(16).padStart(2, "0")}`).join("")}`;
    }
  }
}
