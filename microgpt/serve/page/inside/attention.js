// @ts-check
// Attention: a picture of each head, the chosen one in large, and the text coloured from the chosen position: cool where
// that position looks, warm where it is looked at from.

import { fill, h } from '../dom.js';
import { percent, visible } from '../format.js';
import { region } from '../region.js';
import { cellAt, onTheme, paint } from './paint.js';

/** @typedef {import('./session.js').Session} Session */

const ROWS = 12; // of the table
const SIDE = 96; // cells of a small picture
const LABELLED = 24; // positions that have room for their tokens beside the picture

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function attentionPanel(session) {
  const ender = new AbortController();
  const heads = h('div', { class: 'heads', role: 'grid', 'aria-label': 'Heads, a row per layer' });
  const large = h('canvas', { class: 'large', role: 'img', 'aria-label': 'The chosen head' });
  const across = h('div', { class: 'labels across', 'aria-hidden': 'true' });
  const down = h('div', { class: 'labels down', 'aria-hidden': 'true' });
  const picture = h('div', { class: 'labelled' }, across, down, large);
  const readout = h('p', { class: 'small number readout' });
  const table = region('The chosen position');
  const title = h('h2', null, 'The chosen head');
  const element = h(
    'div',
    { class: 'two' },
    h('section', { class: 'card', 'aria-label': 'Heads' }, h('h2', null, 'Heads'), heads),
    h(
      'section',
      { class: 'card', 'aria-label': 'The chosen head' },
      title,
      h('p', { class: 'small soft' }, 'Each row is a position; its cells are the positions that it looks at.'),
      picture,
      readout,
      h('details', { open: true }, h('summary', null, 'The chosen position as a table'), table),
    ),
  );
  large.addEventListener('pointermove', (event) => {
    const { row, column } = cellAt(large, event);
    session.choose(row);
    tell(row, Math.min(row, column));
  });
  large.addEventListener('pointerleave', () => fill(readout, ' '));
  heads.addEventListener('keydown', moveHead);
  onTheme(() => news('look'), ender.signal);

  /** @type {string} */
  let drawn = ''; // which heads there are
  let frame = 0;

  function showHeads() {
    const { text, attention } = session;
    if (!text || !attention) return;
    const shape = `${text.n_layer} ${text.n_head}`;
    if (drawn !== shape) {
      drawn = shape;
      fill(heads, Array.from({ length: text.n_layer }, (_, layer) => headRow(layer, text.n_head)));
    }
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(showThumbnails); // after the chosen head
  }

  function showThumbnails() {
    const { attention } = session;
    if (!attention) return;
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (heads.querySelectorAll('button'))) {
      const canvas = /** @type {HTMLCanvasElement} */ (button.firstElementChild);
      const { side, cells } = attention.thumbnail(Number(button.dataset.layer), Number(button.dataset.head), SIDE);
      paint(canvas, side, side, (row, column) => Math.sqrt(cells[row * side + column] / 65535));
    }
  }

  /**
   * @param {number} layer
   * @param {number} n
   */
  function headRow(layer, n) {
    const cells = Array.from({ length: n }, (_, head) =>
      h(
        'button',
        {
          role: 'gridcell',
          tabindex: -1,
          dataset: { layer: String(layer), head: String(head) },
          'aria-label': `Layer ${layer}, head ${head}`,
          onclick: () => session.chooseHead(layer, head),
          onfocus: () => session.chooseHead(layer, head),
        },
        h('canvas', { 'aria-hidden': 'true' }),
      ),
    );
    const name = h('span', { class: 'small soft', role: 'rowheader' }, `layer ${layer}`);
    return h('div', { class: 'heads-row', role: 'row' }, name, ...cells);
  }

  /** @param {KeyboardEvent} event */
  function moveHead(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const { text, kept } = session;
    if (!step || !text) return;
    event.preventDefault();
    const layer = Math.max(0, Math.min(text.n_layer - 1, kept.layer + step[0]));
    const head = Math.max(0, Math.min(text.n_head - 1, kept.head + step[1]));
    button(layer, head)?.focus();
  }

  /**
   * @param {number} layer
   * @param {number} head
   * @returns {HTMLElement | null}
   */
  function button(layer, head) {
    return heads.querySelector(`[data-layer="${layer}"][data-head="${head}"]`);
  }

  function showChosen() {
    const { attention } = session;
    const { layer, head } = session.kept;
    if (!attention) return;
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (heads.querySelectorAll('button'))) {
      const chosen = each === button(layer, head);
      each.tabIndex = chosen ? 0 : -1;
      each.setAttribute('aria-selected', String(chosen));
    }
    title.textContent = `Layer ${layer}, head ${head}`;
    const length = attention.length;
    const labels = length > LABELLED ? [] : (session.text?.pieces ?? []).map(visible);
    for (const side of [across, down]) fill(side, labels.map((label) => h('span', null, label)));
    picture.style.setProperty('--most', `${Math.min(34, 4 + 2.6 * length)}rem`);
    paint(large, length, length, (row, column) => attention.weight(layer, head, row, column));
    large.setAttribute('aria-label', `Attention of layer ${layer}, head ${head}: ${length} by ${length} positions`);
  }

  /** The row of the chosen position in the table, and from where it is looked at. */
  function showTable() {
    const { text, attention } = session;
    const { layer, head, position } = session.kept;
    if (!text || !attention || position >= text.tokens.length) return;
    const looks = ranked(position + 1, (at) => attention.weight(layer, head, position, at));
    const seen = ranked(text.tokens.length, (at) => attention.weight(layer, head, at, position));
    const name = (/** @type {number} */ at) => `${at}: ${visible(text.pieces[at])}`;
    const rows = Array.from({ length: Math.max(looks.length, seen.length) }, (_, i) =>
      h(
        'tr',
        null,
        h('td', null, i in looks ? name(looks[i].at) : ''),
        h('td', { class: 'number' }, i in looks ? percent(looks[i].share) : ''),
        h('td', null, i in seen ? name(seen[i].at) : ''),
        h('td', { class: 'number' }, i in seen ? percent(seen[i].share) : ''),
      ),
    );
    const head1 = h('th', { scope: 'col', colspan: 2 }, `“${visible(text.pieces[position])}” looks at`);
    const head2 = h('th', { scope: 'col', colspan: 2 }, 'is looked at by');
    fill(table, h('table', null, h('thead', null, h('tr', null, head1, head2)), h('tbody', null, rows)));
  }

  /**
   * @param {number} row
   * @param {number} column
   */
  function tell(row, column) {
    const { text, attention } = session;
    const { layer, head } = session.kept;
    if (!text || !attention || row >= attention.length) return;
    const share = percent(attention.weight(layer, head, row, column));
    const pieces = text.pieces.map(visible);
    readout.textContent = `“${pieces[row]}” (${row}) looks at “${pieces[column]}” (${column}): ${share}`;
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind === 'look') showHeads();
    if (kind !== 'position') showChosen();
    showTable();
  }

  function shades() {
    const { text, attention } = session;
    const { layer, head, position } = session.kept;
    if (!text || !attention) return null;
    return text.tokens.map((_, at) => {
      const warm = at > position;
      const share = warm ? attention.weight(layer, head, at, position) : attention.weight(layer, head, position, at);
      return { share, warm, label: `${warm ? 'looks at it' : 'it looks here'}: ${percent(share)}` };
    });
  }

  function end() {
    cancelAnimationFrame(frame);
    ender.abort();
  }

  const legend = 'Point at a token, or move with the arrow keys. Blue: where it looks. Orange: who looks at it.';
  return { element, news, shades, hovers: true, legend, end };
}

/**
 * The positions with the largest weights.
 * @param {number} n
 * @param {(at: number) => number} weight
 */
function ranked(n, weight) {
  const all = Array.from({ length: n }, (_, at) => ({ at, share: weight(at) }));
  return all.filter((each) => each.share > 0).sort((a, b) => b.share - a.share).slice(0, ROWS);
}
