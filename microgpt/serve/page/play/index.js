// @ts-check
// Play: texts and chats, each token with its probability and the ones that could stand in its place.

import { ApiError, aborted, get } from '../api.js';
import { fill, h } from '../dom.js';
import { branches } from './branches.js';
import { candidates } from './candidates.js';
import { chat } from './chat.js';
import { completion } from './completion.js';
import { controls } from './controls.js';
import { load, save } from './kept.js';
import { lookUp } from './memory.js';
import { isBare, recall, remember } from './remembered.js';
import { Session } from './session.js';
import { surprise } from './tokens.js';
import { transcript } from './transcript.js';
import { fork } from './tree.js';

/** @typedef {import('./tree.js').Part} Part */

const WEIGHED = 80; // milliseconds without a change of the settings after which tokens are weighed again

/** @type {import('../types.js').View['show']} */
export async function show(main, context) {
  if (!context.run) {
    fill(main, h('h1', null, 'Play'), h('p', null, 'There is no run here yet. Train one: ', h('code', null, 'microgpt train names')));
    return () => {};
  }
  const run = context.runs.find((each) => each.name === context.run);
  if (run && !run.model) {
    fill(main, h('h1', null, context.run), h('p', null, 'This run has no checkpoint yet, so there is no model to play with.'));
    return () => {};
  }
  const aborter = new AbortController();
  const facts = await get(`/api/play/${encodeURIComponent(context.model)}`, context.signal);
  context.signal.throwIfAborted();
  const step = facts.step; // the run's own choice, unless another one was asked for
  const settings = controls(facts.temperature, weigh);
  const alarm = h('p', { class: 'error', role: 'alert' });
  const status = h('p', { class: 'status small soft' });
  const panel = h('section', { class: 'card candidates', 'aria-label': 'Candidates of a token' });
  const memory = h('section', { class: 'card memory', hidden: true, 'aria-label': 'Training text' });
  const tree = h('section', { class: 'card branches', hidden: true, 'aria-label': 'Branches' });

  const session = new Session(context.model, facts, settings.read, {
    begun: () => status.setAttribute('aria-busy', 'true'),
    changed: render,
    token(part) {
      text.append(part);
      if (following) due ||= requestAnimationFrame(newest);
    },
    ended,
    failed,
  });
  let colour = load('colour', 'probability'); // or surprise, or none
  let looking = new AbortController();
  let weighing = new AbortController();
  /** @type {Part | null} */
  let weighed = null; // the part whose candidates were asked for again
  let timer = 0;
  let following = true; // the newest token's candidates are shown, until another one is looked at
  let due = 0; // the frame in which they are
  /** @type {AbortController | null} */
  let watched = null; // the answer that was last seen to begin
  const special = new Set(Object.values(facts.special));
  const among = candidates(panel, {
    chosen(place, candidate) {
      const next = fork(place.part, place.at, candidate, facts.end);
      if (!place.part.written && !place.part.parent && next.parent) session.begin(next.parent);
      fill(alarm);
      if (next.end) session.look(next);
      else session.generate(next);
      text.at(place.part.written || !next.parent ? next : next.parent, place.at)?.focus();
    },
    back: (place) => text.at(place.part, place.at)?.focus(),
    allowed: (id) => id === facts.end || !special.has(id),
    end: facts.end,
  });
  const text = transcript({ show: look, enter: among.enter, actions: (part) => composer.actions(part), draft: (part) => composer.draft(part) });
  const composer = (facts.chat ? chat : completion)(session, { alarm, failed, say: context.say, signal: aborter.signal });

  /** @param {import('./candidates.js').Place} place */
  function look(place) {
    following = false;
    among.show(place);
  }

  /** Show the candidates of the token that came last. */
  function newest() {
    due = 0;
    const answer = session.answer;
    const last = answer && (answer.ending ? answer.tokens.length : answer.tokens.length - 1);
    const place = answer && text.place(answer, last ?? 0);
    if (place) among.show(place);
  }

  /** Other settings give the tokens that are shown other chances. */
  function weigh() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      weighing.abort();
      weighing = new AbortController();
      try {
        await session.weigh(weighing.signal);
      } catch (error) {
        failed(error);
      }
    }, WEIGHED);
  }

  function render() {
    if (session.running && session.running !== watched) following = true;
    watched = session.running;
    const place = among.place;
    text.render(session.path, facts.chat);
    const still = place && text.place(place.part, place.at);
    if (still) among.show(still);
    else among.clear();
    if (following) newest();
    composer.update();
    branches(tree, session.roots, session.current, (part) => session.look(part));
    tell();
    find();
    if (session.running || weighed === session.current || !isBare(session.path)) return;
    weighed = session.current; // once, whatever comes of it
    weigh();
  }

  function tell() {
    const answer = session.answer;
    status.setAttribute('aria-busy', String(session.running !== null));
    fill(status, answer ? summary(answer, facts.block_size) : `${facts.parameters.toLocaleString('en')} parameters, a context of ${facts.block_size} tokens, ${facts.vocab_size.toLocaleString('en')} tokens in the vocabulary${facts.step === null ? '' : `, step ${facts.step.toLocaleString('en')}`}`);
  }

  /** @param {Part} answer */
  function ended(answer) {
    remember(session);
    context.say(`${answer.shown} (${how(answer, facts.block_size)})`);
  }

  /** Look the text up that is shown. */
  async function find() {
    const answer = session.answer;
    looking.abort();
    looking = new AbortController();
    if (!answer || answer.running || !answer.tokens.length) {
      memory.hidden = true;
      return;
    }
    const parts = facts.chat ? [answer] : session.path;
    const asked = parts.map((part) => part.shown).join('');
    try {
      text.underline(parts, await lookUp(memory, session.model, asked, looking.signal));
    } catch (error) {
      if (!aborted(error)) memory.hidden = true;
    }
  }

  /** @param {unknown} error */
  function failed(error) {
    if (aborted(error)) return;
    if (!(error instanceof ApiError || error instanceof RangeError)) throw error;
    fill(alarm, error.message);
  }

  const scale = h('span', { class: 'scale', 'aria-hidden': 'true' });
  const picture = h('div', { class: 'card text' });
  const colours = h('div', { class: 'row colours' }, h('span', { class: 'segments', role: 'radiogroup', 'aria-label': 'Colour of tokens' }, ['probability', 'surprise', 'none'].map(segment)), scale);

  /** @param {string} name */
  function segment(name) {
    return h('button', { type: 'button', role: 'radio', 'data-colour': name, onclick: () => paint(name), onkeydown: turn }, name[0].toUpperCase() + name.slice(1));
  }

  /** @param {KeyboardEvent} event */
  function turn(event) {
    const names = ['probability', 'surprise', 'none'];
    const by = { ArrowLeft: 2, ArrowUp: 2, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    paint(names[(names.indexOf(colour) + by) % 3]);
    /** @type {HTMLElement | null} */ (colours.querySelector('[aria-checked="true"]'))?.focus();
  }

  /** @param {string} name */
  function paint(name) {
    colour = name;
    save('colour', name);
    picture.dataset.colour = name;
    const ends = { probability: ['0 %', '100 %'], surprise: ['0 bits', '8 bits'], none: [] }[name] ?? [];
    fill(scale, ends.length ? [h('span', null, ends[0]), h('i'), h('span', null, ends[1])] : []);
    for (const button of colours.querySelectorAll('button')) {
      const on = button.dataset.colour === name;
      button.setAttribute('aria-checked', String(on));
      button.tabIndex = on ? 0 : -1;
    }
  }

  fill(picture, colours, text.root, status);
  const heading = h('h1', { class: 'unseen' }, `Play with ${context.model}`);
  const words = facts.chat ? [picture, alarm, composer.element] : [composer.element, alarm, picture];
  fill(main, heading, h('div', { class: 'columns' }, h('div', { class: 'words' }, words, memory, tree), h('div', { class: 'side' }, panel, settings.element)));
  document.addEventListener('keydown', (event) => event.key === 'Escape' && session.stop(), { signal: aborter.signal });
  addEventListener('pagehide', () => remember(session), { signal: aborter.signal });
  recall(session);
  paint(colour);
  render();
  composer.begin();
  const leave = () => {
    aborter.abort();
    looking.abort();
    weighing.abort();
    clearTimeout(timer);
    cancelAnimationFrame(due);
    session.end();
    remember(session);
    composer.end();
  };
  /** @param {import('../types.js').Context} next */
  const follow = (next) => {
    facts.step = next.at ?? step;
    session.follow(next.model);
    composer.follow();
  };
  return Object.assign(leave, { follow });
}

/**
 * @param {Part} answer
 * @param {number} blockSize
 */
function summary(answer, blockSize) {
  const known = answer.tokens.filter((token) => token.logprob !== null);
  const bits = known.reduce((sum, token) => sum + surprise(token.logprob ?? 0), 0);
  const mean = known.length ? `, ${(bits / known.length).toFixed(2)} bits per token` : '';
  const n = answer.tokens.length;
  const dropped = answer.dropped || answer.parent?.dropped || 0;
  const lost = dropped ? `; ${dropped} tokens in front had no room in the context` : '';
  return `${n} token${n === 1 ? '' : 's'}${mean}, seed ${answer.seed ?? ''}: ${how(answer, blockSize)}${lost}`;
}

/**
 * How an answer ended.
 * @param {Part} answer
 * @param {number} blockSize
 */
function how(answer, blockSize) {
  if (answer.running) return 'being generated';
  if (!answer.end) return 'stopped';
  if (answer.end.full) return `the context of ${blockSize} tokens is full`;
  if (answer.end.reason === 'length') return 'as many tokens as asked for';
  return answer.cut >= 0 ? 'ended by the stop' : 'ended by itself';
}
