// @ts-check
// Intervene: switch parts of the model off, scale a neuron, swap a token, and see the next token's probabilities beside
// those without the changes.

import { aborted, ApiError } from '../api.js';
import { fill, h, refill } from '../dom.js';
import { percent, visible } from '../format.js';
import { region } from '../region.js';
import { neuronForm, partsTable, swapForm } from './parts.js';

/** @typedef {import('./session.js').Session} Session */

/**
 * @typedef {object} Consequences  The answer of /api/inside/intervene.
 * @property {number} position
 * @property {{token: number, piece: string, before: number, after: number}[]} candidates
 * @property {number | null} divergence
 * @property {number[]} moved
 */

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function intervenePanel(session) {
  /** @type {Consequences | null} */
  let found = null;
  let asked = 0;
  const problem = h('p', { class: 'error', role: 'alert' });
  const parts = partsTable(session);
  const neuron = neuronForm(session);
  const swap = swapForm(session);
  const list = h('ul', { class: 'changes' });
  const result = region('Probabilities');
  const summary = h('p', { class: 'small', role: 'status' });
  const element = h(
    'div',
    { class: 'two' },
    h(
      'section',
      { class: 'card', 'aria-label': 'Changes' },
      h('h2', null, 'Switch parts off'),
      parts.element,
      h('h2', null, 'Scale a neuron'),
      neuron.element,
      h('h2', null, 'Swap the chosen token'),
      swap.element,
      list,
    ),
    h('section', { class: 'card', 'aria-label': 'Consequences' }, h('h2', null, 'The next token'), problem, summary, result),
  );

  async function load() {
    const number = ++asked;
    const { position } = session.kept;
    try {
      const answer = await session.ask('intervene', { position, top: 10 });
      if (number !== asked) return;
      found = answer;
      problem.textContent = '';
      show();
      session.tell('head'); // only the tokens' colours have changed
    } catch (error) {
      if (aborted(error) || number !== asked) return;
      if (!(error instanceof ApiError)) throw error;
      problem.textContent = error.message;
    }
  }

  function show() {
    const { text } = session;
    if (!found || !text) return;
    const changed = session.kept.changes.length + session.kept.swaps.length > 0;
    const { candidates, divergence, position } = found;
    const piece = visible(text.pieces[position] ?? '');
    const apart = divergence === null ? 'beyond all bounds' : `${divergence.toFixed(4)} nats (Kullback–Leibler)`;
    summary.textContent = changed
      ? `After “${piece}” (${position}), the changed model is apart from the unchanged by ${apart}.`
      : `After “${piece}” (${position}). Nothing is changed yet: switch something off.`;
    const most = Math.max(...candidates.flatMap((each) => [each.before, each.after])) || 1;
    const names = ['Next', 'Unchanged', 'Changed', 'Difference'];
    const rows = candidates.map(({ after, before, piece }) =>
      h(
        'tr',
        null,
        h('th', { scope: 'row' }, visible(piece)),
        h('td', { class: 'number bar-cell', style: { '--share': before / most } }, percent(before)),
        h('td', { class: 'number bar-cell warm', style: { '--share': after / most } }, percent(after)),
        h('td', { class: 'number' }, points(after - before)),
      ),
    );
    const head = h('tr', null, names.map((name) => h('th', { scope: 'col' }, name)));
    fill(result, h('table', { class: 'result' }, h('thead', null, head), h('tbody', null, rows)));
  }

  function showChanges() {
    const { changes, swaps } = session.kept;
    const items = changes.map((change) => {
      const { index, layer, part, scale } = change;
      const name = part === 'head' || part === 'neuron' ? `${part} ${index} of layer ${layer}` : part === 'layer' ? `layer ${layer}` : `${part === 'mlp' ? 'MLP' : part} of layer ${layer}`;
      const what = scale === 0 ? 'off' : `× ${scale}`;
      return item(`${name} ${what}`, () => session.change({ ...change, scale: 1 }));
    });
    for (const { piece, position } of swaps) {
      items.push(item(`token ${position} is “${visible(piece)}”`, () => session.unswap(position)));
    }
    refill(list, items);
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind === 'look') {
      parts.show();
      neuron.show();
      showChanges();
    }
    if (kind === 'look' || kind === 'position') {
      swap.show();
      load();
    }
  }

  function shades() {
    return found && found.moved.length === session.text?.tokens.length
      ? found.moved.map((share) => ({ share, warm: true, label: `probabilities after it moved by ${percent(share)}` }))
      : null;
  }

  const legend = 'Choose the token whose next one is shown. Orange: how far the changes move the probabilities after it.';
  return { element, news, shades, legend };
}

/**
 * @param {string} name
 * @param {() => void} undo
 */
function item(name, undo) {
  return h('li', { class: 'row small' }, name, h('button', { class: 'plain', onclick: undo, 'aria-label': `Undo: ${name}` }, '✕'));
}

/**
 * A difference of probabilities in percentage points.
 * @param {number} share
 */
function points(share) {
  const value = (100 * share).toFixed(2);
  return share > 0 ? `+${value}` : value === '-0.00' ? '0.00' : value.replace('-', '−');
}
