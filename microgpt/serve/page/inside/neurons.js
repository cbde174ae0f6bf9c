// @ts-check
// Neurons: how strongly each of a layer fires, the texts that make one fire most, and the tokens that it makes likelier.

import { guarded } from '../api.js';
import { fill, h, refill } from '../dom.js';
import { percent, visible } from '../format.js';
import { region } from '../region.js';

/** @typedef {import('./session.js').Session} Session */

/** @typedef {{source: 'data' | 'generated', texts: number, positions: number, peaks: number[], shares: number[]}} Layer */
/** @typedef {{pieces: string[], values: number[], peak: number, before: boolean, after: boolean}} Example */
/** @typedef {{examples: Example[], raises: Pushed[], lowers: Pushed[]}} Fired */
/** @typedef {{piece: string, logit: number}} Pushed */

const SHOWN = 48; // neurons of the list at first

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function neuronsPanel(session) {
  let asked = ''; // which layer of which model was asked for
  let shown = SHOWN;
  /** @type {Layer | null} */
  let layer = null;
  const problem = h('p', { class: 'error', role: 'alert' });
  const choice = h('select', { id: 'neurons-layer' });
  const source = h('p', { class: 'small soft' }, 'Looking for the texts that make neurons fire …');
  const list = region('Neurons', 'neurons-list');
  const detail = h('section', { class: 'card', 'aria-label': 'The chosen neuron', hidden: true });
  choice.addEventListener('change', () => {
    session.kept.layer = Number(choice.value);
    session.kept.neuron = -1;
    load();
  });
  const picker = h('p', { class: 'row' }, h('label', { for: 'neurons-layer', class: 'name' }, 'Layer'), choice);
  const element = h(
    'div',
    { class: 'two' },
    h('section', { class: 'card' }, h('h2', null, 'Neurons of the MLP'), picker, source, problem, list),
    detail,
  );

  async function load() {
    const { text, kept, context } = session;
    if (!text) return;
    const question = `${context.model} ${kept.layer}`;
    if (asked === question) return;
    asked = question;
    fill(
      choice,
      Array.from({ length: text.n_layer }, (_, i) => h('option', { value: i, selected: i === kept.layer }, i)),
    );
    const done = await guarded(problem, async () => {
      const found = await session.askModel('neurons', { layer: kept.layer });
      if (asked !== question) return;
      layer = found;
      showList();
      const strongest = order(found)[0];
      await choose(kept.neuron >= 0 && kept.neuron < found.peaks.length ? kept.neuron : strongest);
    });
    if (!done && asked === question) asked = ''; // it is asked again
  }

  function showList() {
    if (!layer) return;
    const { peaks, positions, shares, source: from, texts } = layer;
    const origin = from === 'data' ? "of the run's own data" : 'that the model wrote, as its data is not here';
    source.textContent =
      `Each neuron's largest value in ${texts.toLocaleString('en')} texts ${origin} ` +
      `(${positions.toLocaleString('en')} positions), and how often it is above 0.`;
    const rows = order(layer)
      .slice(0, shown)
      .map((neuron) =>
        h(
          'tr',
          { dataset: { neuron: String(neuron) } },
          h('td', null, h('button', { class: 'plain', onclick: () => guarded(problem, () => choose(neuron)) }, neuron)),
          h('td', { class: 'number' }, peaks[neuron].toFixed(2)),
          h('td', { class: 'number bar-cell', style: { '--share': shares[neuron] } }, percent(shares[neuron])),
        ),
      );
    const names = ['Neuron', 'Peak', 'Fires'].map((name) => h('th', { scope: 'col' }, name));
    const more = () => {
      shown *= 4;
      showList();
      mark();
    };
    refill(
      list,
      h('table', null, h('thead', null, h('tr', null, names)), h('tbody', null, rows)),
      shown < peaks.length ? h('button', { class: 'plain', onclick: more }, 'More') : null,
    );
  }

  function mark() {
    for (const row of /** @type {NodeListOf<HTMLElement>} */ (list.querySelectorAll('tr[data-neuron]'))) {
      row.querySelector('button')?.setAttribute('aria-pressed', String(row.dataset.neuron === String(session.kept.neuron)));
    }
  }

  /** @param {number} neuron */
  async function choose(neuron) {
    session.kept.neuron = neuron;
    mark();
    const { layer: at } = session.kept;
    const { model } = session.context;
    /** @type {Fired} */
    const found = await session.askModel('neuron', { layer: at, neuron, top: 6 });
    const wanted = session.kept.neuron === neuron && session.kept.layer === at && session.context.model === model;
    if (wanted) showDetail(at, neuron, found);
  }

  /**
   * @param {number} at
   * @param {number} neuron
   * @param {Fired} found
   */
  function showDetail(at, neuron, found) {
    const part = { part: /** @type {const} */ ('neuron'), layer: at, index: neuron };
    const off = h(
      'button',
      { onclick: () => session.change({ ...part, scale: session.scaleOf(part) === 1 ? 0 : 1 }) },
      session.scaleOf(part) === 1 ? 'Switch it off' : 'Undo its change',
    );
    detail.hidden = false;
    refill(
      detail,
      h('div', { class: 'row between' }, h('h2', null, `Layer ${at}, neuron ${neuron}`), off),
      h('h3', null, 'Texts that make it fire most'),
      h('ol', { class: 'examples' }, found.examples.map(example)),
      h('div', { class: 'pushed' }, pushed('Makes likelier', found.raises), pushed('Makes less likely', found.lowers)),
      h('p', { class: 'small soft' }, 'The change of the logits by one unit of it, directly, before the final norm.'),
    );
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind !== 'look') return;
    load();
    if (layer && asked && detail.childElementCount) guarded(problem, () => choose(session.kept.neuron));
  }

  return { element, news };
}

/**
 * The neurons, the one with the largest peak first.
 * @param {Layer} layer
 */
function order(layer) {
  return layer.peaks.map((_, i) => i).sort((a, b) => layer.peaks[b] - layer.peaks[a]);
}

/** @param {Example} found */
function example(found) {
  const most = Math.max(...found.values.map(Math.abs)) || 1;
  const tokens = found.pieces.map((piece, i) => {
    const share = Math.max(0, found.values[i]) / most;
    const title = `${visible(piece)}: ${found.values[i].toFixed(2)}`;
    return h('span', { class: i === found.peak ? 'fires peak' : 'fires', style: { '--share': share.toFixed(3) }, title }, visible(piece));
  });
  const value = h('span', { class: 'soft number' }, ` ${found.values[found.peak].toFixed(2)} at “${visible(found.pieces[found.peak])}”`);
  return h('li', null, found.before ? '…' : '', ...tokens, found.after ? '…' : '', value);
}

/**
 * @param {string} title
 * @param {Pushed[]} tokens
 */
function pushed(title, tokens) {
  const rows = tokens.map(({ piece, logit }) =>
    h('tr', null, h('td', null, visible(piece)), h('td', { class: 'number' }, `${logit > 0 ? '+' : ''}${logit.toFixed(3)}`)),
  );
  return h('table', null, h('thead', null, h('tr', null, h('th', { scope: 'col', colspan: 2 }, title))), h('tbody', null, rows));
}
