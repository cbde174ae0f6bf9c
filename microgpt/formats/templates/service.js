// @ts-check
// The routes that the views ask for, answered by the model in this page instead of `microgpt serve`.

import { canChat, chatPrompt, promptLength } from './conversation.js';
import { Ensemble } from './ensemble.js';
import { Model } from './model.js';
import { Reader, pause } from './reader.js';
import { draw, probabilities } from './sampling.js';
import { Tokenizer } from './tokenizer.js';
import { Twister } from './twister.js';

/** @typedef {import('./reader.js').Scored} Scored */
/** @typedef {import('../../serve/page/play/tree.js').Token} Token */

/**
 * @typedef {object} About  What the page says of its model.
 * @property {string} name
 * @property {import('./model.js').Options} model
 * @property {import('./tokenizer.js').About} tokenizer
 * @property {number} parameters
 * @property {number} temperature
 */

const PACE = 60; // milliseconds per token, unless at full speed
const CANDIDATES = 10;
const MOST_WEIGHTS = 2 ** 24; // of attention
const ROLES = ['system', 'user', 'assistant'];

/** A request that is refused; its message is for people. */
class Refusal extends Error {}

export class Service {
  /**
   * @param {About} about
   * @param {Model[]} members  One, or several whose probabilities are averaged.
   * @param {() => boolean} hurries  Whether text comes at full speed.
   */
  constructor(about, members, hurries) {
    this.about = about;
    this.hurries = hurries;
    this.tokenizer = new Tokenizer(about.tokenizer);
    this.special = about.tokenizer.special;
    this.chats = canChat(this.special);
    this.end = this.chats ? this.special.end_turn : this.special.bos;
    this.first = members[0];
    this.model = members.length > 1 ? new Ensemble(members) : this.first;
    this.reader = new Reader(this.model);
    /** @type {Reader | null} */
    this.looker = null; // keeps attention, and so has its own cache
  }

  /**
   * Answer a request, as fetch does.
   * @param {string} path
   * @param {RequestInit} options
   * @returns {Promise<Response>}
   */
  async answer(path, options) {
    const body = options.body ? JSON.parse(String(options.body)) : {};
    const signal = options.signal ?? undefined;
    try {
      const found = await this.route(path, body, signal);
      return found instanceof Response ? found : Response.json(found);
    } catch (error) {
      if (!(error instanceof Refusal || error instanceof RangeError)) throw error;
      return Response.json({ error: error.message }, { status: 400 });
    }
  }

  /**
   * @param {string} path
   * @param {any} body
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async route(path, body, signal) {
    if (path === '/api/runs') return { runs: [this.run()], may_train: false };
    if (path.startsWith('/api/play/')) return this.facts();
    if (path === '/api/play') return this.play(body, signal);
    if (path === '/api/score') return this.score(body, signal);
    if (path === '/tokenize') return { tokens: this.tokenizer.encode(body.content) };
    if (path === '/v1/completions') return this.complete(body, signal);
    if (path === '/api/inside/text') return this.text(body, signal);
    if (path === '/api/inside/attention') return this.attention(body, signal);
    throw new Refusal('this page has only the model, not what it was trained on');
  }

  run() {
    const { name, parameters } = this.about;
    return { name, parameters, model: true, chat: this.chats, description: '', state: 'finished', checkpoints: [] };
  }

  facts() {
    const { name, parameters, temperature, model, tokenizer } = this.about;
    const { special, end, chats } = this;
    const roles = ROLES.filter((role) => role in special);
    return { name, parameters, temperature, special, end, roles, chat: chats, block_size: model.block_size, vocab_size: model.vocab_size, tokenizer: tokenizer.kind, step: null };
  }

  /**
   * The tokens that a text or an answer goes on from.
   * @param {any} body
   * @returns {import('./conversation.js').Prompt}
   */
  prompt(body) {
    const { special, tokenizer } = this;
    const block = this.about.model.block_size;
    const answer = body.answer ?? [];
    let found = { tokens: [special.bos, ...(body.tokens ?? [])], dropped: 0 };
    if (body.turns) {
      const turns = body.turns.map((/** @type {any} */ turn) => {
        if (!(turn.role in special)) throw new Refusal(`this model knows no role ${turn.role}`);
        return [special[turn.role], ...(turn.tokens ?? tokenizer.encode(turn.content)), special.end_turn];
      });
      const whole = turns.flat().length <= block - 2;
      found = chatPrompt(turns, special, whole ? block - 2 : promptLength(block));
    } else if (typeof body.text === 'string') found = this.encode(body.text);
    const tokens = [...found.tokens, ...answer];
    if (tokens.length > block) throw new Refusal(`${tokens.length} tokens, but the context holds ${block}`);
    return { ...found, tokens };
  }

  /**
   * BOS and a text's tokens; as many of the last as leave a quarter of the context free.
   * @param {string} text
   */
  encode(text) {
    const block = this.about.model.block_size;
    const found = this.tokenizer.encode(text);
    const kept = found.length < block ? found.length : Math.max(0, block - 1 - Math.max(1, Math.floor(block / 4)));
    return { tokens: [this.special.bos, ...found.slice(found.length - kept)], dropped: found.length - kept };
  }

  /**
   * Tokens with their pieces of text; those of `scored` that are null are left out, but read.
   * @param {number[]} tokens
   * @param {(Scored | null)[]} scored
   */
  teller(tokens = [], scored = []) {
    const { tokenizer } = this;
    const decode = tokenizer.decoder();
    /** @type {number | null} */
    let last = null;
    const tell = (/** @type {Scored} */ found, ends = false) => {
      const text = (/** @type {number} */ id) => tokenizer.spell(id, last);
      const candidates = found.candidates.map((each) => ({ ...each, text: text(each.id) }));
      /** @type {Token} */
      const told = { id: found.id, piece: ends ? '' : decode(found.id), text: text(found.id), logprob: found.logprob, candidates };
      last = found.id;
      return told;
    };
    const told = tokens.flatMap((id, at) => {
      const found = scored[at];
      if (found) return [tell(found)];
      decode(id);
      last = id;
      return [];
    });
    return { tell, told };
  }

  /**
   * Each token of a text, with the likeliest ones in its place.
   * @param {any} body
   * @param {AbortSignal} [signal]
   */
  async score(body, signal) {
    const { tokens, dropped } = this.prompt(body);
    await this.reader.read(tokens, this.sampling(body), CANDIDATES, signal);
    return { prompt: this.teller(tokens, this.reader.scored).told, dropped };
  }

  /**
   * @param {any} body
   * @returns {import('./sampling.js').Sampling}
   */
  sampling({ temperature = this.about.temperature, top_k, top_p, min_p, repetition_penalty }) {
    return { temperature, top_k, top_p, min_p, repetition_penalty };
  }

  /**
   * Server-sent events: the prompt, each token, and the end.
   * @param {any} body
   * @param {AbortSignal} [signal]
   */
  play(body, signal) {
    const { tokens, dropped } = this.prompt(body);
    const ender = new AbortController();
    const text = new TextEncoder();
    const events = this.generate(body, tokens, dropped, ender.signal);
    const stream = new ReadableStream({
      start: (controller) => {
        signal?.addEventListener('abort', () => {
          ender.abort();
          controller.error(signal.reason);
        });
      },
      pull: async (controller) => {
        const { done, value } = await events.next();
        if (ender.signal.aborted) return;
        controller.enqueue(text.encode(`data: ${done ? '[DONE]' : JSON.stringify(value)}\n\n`));
        if (done) controller.close();
      },
      cancel: () => ender.abort(),
    });
    return new Response(stream);
  }

  /**
   * Read the prompt, and generate until the model ends the text, the context is full or somebody stops it.
   * @param {any} body
   * @param {number[]} prompt
   * @param {number} dropped
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *generate(body, prompt, dropped, signal) {
    const { reader } = this;
    const sampling = this.sampling(body);
    const block = this.about.model.block_size;
    const most = body.max_tokens === undefined ? block : Math.min(block, prompt.length + body.max_tokens - 1);
    const never = body.turns ? Object.values(this.special).filter((id) => id !== this.end) : [];
    const end = body.turns ? this.end : this.special.bos;
    const chance = new Twister(body.seed);
    for (let i = 0; i < (body.draws ?? 0); i++) chance.random();
    await reader.read(prompt, sampling, CANDIDATES, signal);
    const { tell, told } = this.teller(prompt, reader.scored);
    yield { prompt: told, dropped };
    const seen = prompt.slice();
    let text = '';
    let [ending, reason] = [/** @type {Token | null} */ (null), 'length'];
    while (seen.length <= most) {
      const due = performance.now() + PACE;
      await reader.read(seen, sampling, CANDIDATES, signal);
      const shaped = reader.logits.slice();
      const first = seen.length === prompt.length && body.turns && !body.answer?.length;
      for (const id of first ? [...never, end] : never) shaped[id] = -Infinity;
      const id = draw(probabilities(shaped, sampling, seen), chance.random());
      const scored = reader.score(id, shaped, sampling, CANDIDATES);
      const token = tell(scored, id === end);
      if (id === end) {
        [ending, reason] = [token, 'stop'];
        break;
      }
      seen.push(id);
      if (seen.length <= block) reader.push(id, scored);
      text += token.piece;
      yield { token };
      const stops = (body.stop ?? []).map((/** @type {string} */ stop) => text.indexOf(stop)).filter((/** @type {number} */ at) => at >= 0);
      if (stops.length) {
        [text, reason] = [text.slice(0, Math.min(...stops)), 'stop'];
        break;
      }
      if (body.hurried || this.hurries()) await reader.rest(signal);
      else await pause(Math.max(0, due - performance.now()));
      signal.throwIfAborted();
    }
    yield { end: { reason, text, ending, full: seen.length > block, seed: body.seed } };
  }

  /**
   * A short text for Look inside to begin with.
   * @param {any} body
   * @param {AbortSignal} [signal]
   */
  async complete(body, signal) {
    const { tokens } = this.prompt({ text: body.prompt });
    const never = new AbortController().signal;
    for await (const event of this.generate({ ...body, hurried: true }, tokens, 0, signal ?? never)) {
      if (event.end) return { choices: [{ text: event.end.text }] };
    }
    return { choices: [{ text: '' }] };
  }

  /**
   * Read a text as Look inside asks for it.
   * @param {any} body
   * @param {AbortSignal} [signal]
   */
  async look({ text, message }, signal) {
    const { special, tokenizer } = this;
    const { n_layer, n_head, block_size } = this.about.model;
    const most = Math.min(block_size, Math.floor(Math.sqrt(MOST_WEIGHTS / (n_layer * n_head))));
    const found = tokenizer.encode(text);
    if (message && this.chats) found.splice(0, found.length, special.user, ...found, special.end_turn, special.assistant);
    const dropped = Math.max(0, found.length + 1 - most);
    const tokens = [special.bos, ...found.slice(dropped)];
    this.looker ??= new Reader(new Model(this.first.options, this.first.w), true);
    await this.looker.read(tokens, { temperature: 1 }, 0, signal);
    return { tokens, dropped, reader: this.looker };
  }

  /**
   * @param {any} body
   * @param {AbortSignal} [signal]
   */
  async text(body, signal) {
    const { tokens, dropped, reader } = await this.look(body, signal);
    const { n_layer, n_head, n_embd, vocab_size, block_size } = this.about.model;
    const bits = reader.scored.map((each) => each && -each.logprob / Math.LN2);
    const pieces = tokens.map((id) => this.tokenizer.spell(id));
    return { tokens, pieces, dropped, n_layer, n_head, n_embd, vocab_size, block_size, stages: [], norms: [], bits };
  }

  /**
   * The weights of each layer and head, row by row of its lower triangle, 65535 for 1.
   * @param {any} body
   * @param {AbortSignal} [signal]
   */
  async attention(body, signal) {
    const { tokens, reader } = await this.look(body, signal);
    const { n_layer, n_head } = this.about.model;
    const size = (tokens.length * (tokens.length + 1)) / 2;
    const packed = new Uint16Array(n_layer * n_head * size);
    reader.attention.forEach((row, at) => {
      for (let head = 0; head < n_layer * n_head; head++) {
        packed.set(row.subarray(head * (at + 1), (head + 1) * (at + 1)), head * size + (at * (at + 1)) / 2);
      }
    });
    return new Response(packed);
  }
}
