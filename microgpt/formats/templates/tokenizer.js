// Text to tokens and back, for each kind of tokenizer. `about` is {kind, tokens, merges, special, pattern}:
// tokens by id; merges as pairs of ids, in the order of learning; special tokens by name.

/** The printable character that GPT-2 writes for each byte. */
function byteLetters() {
  const visible = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let hidden = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(visible(b) ? b : hidden++));
}

class Tokenizer {
  constructor(about) {
    this.about = about;
    this.special = new Map(Object.entries(about.special).map(([name, id]) => [id, name]));
    this.ids = new Map(about.tokens.map((token, id) => [token, id]).filter(([, id]) => !this.special.has(id)));
    this.ranks = new Map(about.merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.pattern = about.pattern ? new RegExp(about.pattern, "gu") : null;
    this.letters = byteLetters();
    this.byte = new Map(this.letters.map((letter, b) => [letter, b]));
    this.firstMerge = about.tokens.length - about.merges.length - this.special.size;
  }

  /** Tokens of a text. Throws Error with the character or word that the vocabulary lacks. */
  encode(text) {
    const { kind } = this.about;
    if (kind === "char") return this.lookUp([...text]);
    if (kind === "word" || kind === "word-lossy") return this.lookUp(text.match(this.pattern) ?? []);
    if (kind === "bpe") {
      const bytes = (piece) => Array.from(new TextEncoder().encode(piece), (b) => this.letters[b]);
      return (text.match(this.pattern) ?? []).flatMap((piece) => this.merge(this.lookUp(bytes(piece))));
    }
    if (kind === "bpe-words") {
      const words = text.split(this.pattern).filter(Boolean).map((word) => [...word, " "]);
      return words.flatMap((word) => this.merge(this.lookUp(word)));
    }
    return this.merge(this.lookUp([...text]));
  }

  lookUp(pieces) {
    return pieces.map((piece) => {
      const id = this.ids.get(piece) ?? this.about.special.unk;
      if (id === undefined) throw new Error(`This model does not know “${piece}”.`);
      return id;
    });
  }

  /** Merge the pair that was learnt first, again and again. */
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

  /** A function from the next token to the text that is certain by now. */
  decoder(last = null) {
    const utf8 = new TextDecoder(), { kind, tokens } = this.about;
    const before = new Set(".,;:!?'\")-]}"), after = new Set("('\"[{");
    return (id) => {
      if (this.special.has(id)) return "";
      const token = tokens[id];
      if (kind === "bpe") return utf8.decode(Uint8Array.from(token, (c) => this.byte.get(c)), { stream: true });
      if (kind !== "word-lossy" && kind !== "bpe-words") return token;
      const first = last === null, ends = kind === "bpe-words" ? last?.endsWith(" ") : !before.has(token) && !after.has(last);
      last = token;
      return (!first && ends ? " " : "") + (kind === "bpe-words" ? token.replace(/ $/, "") : token);
    };
  }

  /** A token as a person should see it. */
  show(id) {
    if (this.special.has(id)) return this.special.get(id) === "bos" ? "end" : `⟨${this.special.get(id)}⟩`;
    let text = this.about.tokens[id];
    if (this.about.kind === "bpe") {
      const bytes = Uint8Array.from(text, (c) => this.byte.get(c));
      try {
        text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      } catch {
        return Array.from(bytes, (b) => `\\x${b.toString(16).padStart(2, "0")}`).join("");
      }
    }
    return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  }
}
