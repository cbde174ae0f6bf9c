// @ts-check
// Over time: the same text at each kept checkpoint: its probabilities, the chosen head, the next token, and a sample.

import { aborted, ApiError, post } from '../api.js';
import { fill, h } from '../dom.js';
import { percent, visible } from '../format.js';
import { region } from '../region.js';
import { paint } from './paint.js';
import { Attention } from './session.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {import('./session.js').Text} Text */
/** @typedef {{piece: string, after: number}} Candidate */

const MOST = 24; // checkpoints that are shown
const NEXT = 3; // likeliest tokens
const SIDE = 64; // cells of a picture

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function historyPanel(session) {
  let asked = ''; // the question that the rows answer
  /** @type {Map<number, {row: HTMLElement, attention: Attention | null}>} */
  const rows = new Map();
  const table = region('The text at each checkpoint');
  const element = h(
    'section',
    { class: 'card' },
    h('h2', null, 'The same text at each checkpoint'),
    h(
      'p',
      { class: 'small soft' },
      'The text is coloured by the probability of each token after those before it; the sample goes on from it with the same ' +
        'random numbers each time. Choose a step to look into it.',
    ),
    table,
  );

  /** A new question: rows are filled one after another, the first first. */
  async function load() {
    const { model, ...rest } = session.question;
    const question = JSON.stringify(rest);
    if (asked === question) return;
    asked = question;
    const run = session.context.runs.find((each) => each.name === session.context.run);
    const steps = thinned((run?.checkpoints ?? []).map((checkpoint) => checkpoint.step));
    rows.clear();
    for (const step of steps) rows.set(step, { row: h('tr', null, heading(step), h('td', { colspan: 5 }, '…')), attention: null });
    const names = ['Step', 'Head', 'Text', 'Bits per token', 'Next', 'Sample'].map((name) => h('th', { scope: 'col' }, name));
    const body = h('tbody', null, [...rows.values()].map(({ row }) => row));
    fill(table, steps.length ? h('table', { class: 'history' }, h('thead', null, h('tr', null, names)), body) : 'This run has kept no checkpoints.');
    mark();
    for (const step of steps) {
      try {
        await loadRow(step, question);
      } catch (error) {
        if (aborted(error)) return;
        if (!(error instanceof ApiError)) throw error;
        const row = rows.get(step)?.row;
        if (row && asked === question) fill(row, heading(step), h('td', { colspan: 5 }, error.message));
      }
      if (asked !== question) return;
    }
  }

  /** @param {number} step */
  function heading(step) {
    const { context } = session;
    const open = () => context.go(`#/inside/${encodeURIComponent(context.run)}?at=${step}`);
    return h('th', { scope: 'row' }, h('button', { class: 'plain number', onclick: open }, step.toLocaleString('en')));
  }

  /**
   * @param {number} step
   * @param {string} question
   */
  async function loadRow(step, question) {
    const model = `${session.context.run}@${step}`;
    /** @type {[Text, ArrayBuffer, {candidates: Candidate[]}, string]} */
    const [text, packed, next, sample] = await Promise.all([
      session.ask('text', { model }),
      session.packed(model),
      session.ask('intervene', { model, top: NEXT }),
      sampled(session, model),
    ]);
    const found = rows.get(step);
    if (!found || asked !== question) return;
    found.attention = new Attention(text, packed);
    const known = text.bits.filter((bits) => bits !== null);
    const mean = known.length ? (known.reduce((sum, bits) => sum + bits, 0) / known.length).toFixed(2) : '';
    const tokens = text.pieces.slice(1).map((piece, i) => {
      const p = 2 ** -(text.bits[i + 1] ?? 0);
      return h('span', { class: 'likely', style: { '--share': p.toFixed(3) }, title: percent(p) }, visible(piece));
    });
    const best = [...next.candidates].sort((a, b) => b.after - a.after).slice(0, NEXT);
    const name = session.kept;
    fill(
      found.row,
      heading(step),
      h('td', null, h('canvas', { role: 'img', 'aria-label': `Layer ${name.layer}, head ${name.head} at step ${step}` })),
      h('td', { class: 'mono' }, tokens),
      h('td', { class: 'number' }, mean),
      h('td', null, best.map(({ after, piece }) => h('div', null, h('span', { class: 'mono' }, visible(piece)), ` ${percent(after)}`))),
      h('td', { class: 'mono sample' }, sample),
    );
    draw(found);
  }

  /** @param {{row: HTMLElement, attention: Attention | null}} found */
  function draw({ attention, row }) {
    const canvas = row.querySelector('canvas');
    if (!canvas || !attention) return;
    const { side, cells } = attention.thumbnail(session.kept.layer, session.kept.head, SIDE);
    paint(canvas, side, side, (i, j) => Math.sqrt(cells[i * side + j] / 65535));
  }

  function mark() {
    for (const [step, { row }] of rows) row.classList.toggle('now', step === session.context.at);
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind !== 'look') return;
    load();
    mark();
  }

  return { element, news, legend: 'The head that is shown is the one that was chosen under Attention.', end: () => (asked = '') };
}

/**
 * The continuation that a checkpoint writes.
 * @param {Session} session
 * @param {string} model
 * @returns {Promise<string>}
 */
async function sampled(session, model) {
  const { message, text } = session.question;
  const { signal } = session.aborter;
  const options = { model, seed: 1, temperature: 0.5, max_tokens: 24 };
  const chat = session.context.runs.find((run) => run.name === session.context.run)?.chat && message;
  try {
    if (!chat) return (await post('/v1/completions', { ...options, prompt: text }, signal)).choices[0].text;
    const messages = [{ role: 'user', content: text }];
    return (await post('/v1/chat/completions', { ...options, messages }, signal)).choices[0].message.content;
  } catch (error) {
    if (error instanceof ApiError) return ''; // the text fills the context
    throw error;
  }
}

/**
 * At most MOST steps, evenly spaced, the last among them.
 * @param {number[]} steps
 */
function thinned(steps) {
  if (steps.length <= MOST) return steps;
  return Array.from({ length: MOST }, (_, i) => steps[Math.round((i * (steps.length - 1)) / (MOST - 1))]);
}
