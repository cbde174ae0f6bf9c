// @ts-check
// An array as a grid of numbers with colours: blue above 0, orange below, stronger for larger ones.

import { h } from '../dom.js';

const MOST = 64; // rows or columns at a time; the grid moves with the number that is chosen

/**
 * @typedef {object} Grid
 * @property {string} title
 * @property {string} [note]
 * @property {string} array  Which array it shows.
 * @property {(number | null)[]} numbers
 * @property {number[]} shape
 * @property {string[]} axes
 * @property {number | null} chosen  The index that is chosen.
 * @property {Set<number>} marked  Indices that it is computed from, or goes to.
 * @property {number | null} position  The row of this position is marked.
 * @property {(axis: string, i: number) => string} header  A label of a row.
 * @property {(index: number) => void} choose
 */

/**
 * @param {Grid} grid
 * @returns {HTMLElement}
 */
export function gridOf(grid) {
  const exponent = unit(grid.numbers);
  const largest = grid.numbers.reduce((/** @type {number} */ most, x) => Math.max(most, Math.abs(x ?? 0)), 0);
  const [columns = 1, rows = 1, heads = 1] = [...grid.shape].reverse();
  const tables = Array.from({ length: heads }, (_, head) => table(grid, { head, rows, columns, exponent, largest }));
  return h(
    'figure',
    { class: 'grid', dataset: { array: grid.array } },
    h(
      'figcaption',
      null,
      h('strong', null, grid.title),
      ` ${grid.shape.join(' × ') || 'one number'}`,
      exponent ? [', in units of 10', h('sup', null, String(exponent).replace('-', '−'))] : null,
      grid.note ? `, ${grid.note}` : null,
    ),
    h('div', { class: 'tables' }, tables),
  );
}

/**
 * @param {Grid} grid
 * @param {{head: number, rows: number, columns: number, exponent: number, largest: number}} part
 */
function table(grid, { head, rows, columns, exponent, largest }) {
  const begin = head * rows * columns;
  const inside = grid.chosen !== null && grid.chosen >= begin && grid.chosen < begin + rows * columns;
  const at = inside && grid.chosen !== null ? grid.chosen - begin : (first(grid.marked, begin, rows * columns) ?? begin) - begin;
  const [top, bottom] = around(Math.floor(at / columns), rows);
  const [left, right] = around(at % columns, columns);
  const [rowAxis, columnAxis] = [grid.axes.at(-2) ?? '', grid.axes.at(-1) ?? ''];
  const label = `${grid.title}${grid.shape.length > 2 ? `, head ${head}` : ''}`;
  const cells = [];
  for (let row = top; row < bottom; row++) {
    /** @type {HTMLElement[]} */
    const line = [rowAxis ? h('th', { scope: 'row' }, grid.header(rowAxis, row)) : h('td')];
    for (let column = left; column < right; column++) {
      const index = begin + row * columns + column;
      line.push(cell(grid, index, exponent, largest, index === begin + at));
    }
    const marked = grid.position === row && rowAxis === 'position';
    cells.push(h('tr', { class: marked ? 'here' : null }, line));
  }
  const made = h(
    'table',
    { role: 'grid', 'aria-label': label },
    h('thead', null, h('tr', null, grid.shape.length > 2 ? h('th', null, `head ${head}`) : h('td'),
      Array.from({ length: right - left }, (_, i) => h('th', { scope: 'col' }, columnHeader(grid, columnAxis, left + i))))),
    h('tbody', null, cells),
  );
  made.addEventListener('click', (event) => chosen(event, grid));
  made.addEventListener('keydown', (event) => moved(event, grid));
  const cut = rows > MOST || columns > MOST;
  return h(
    'div',
    { class: 'scrolls' },
    made,
    cut ? h('p', { class: 'small soft' }, `rows ${top} to ${bottom - 1} of ${rows}, columns ${left} to ${right - 1} of ${columns}`) : null,
  );
}

/** @param {Grid} grid @param {string} axis @param {number} i */
function columnHeader(grid, axis, i) {
  return axis === 'token' || axis === 'key' ? grid.header(axis, i) : String(i);
}

/**
 * @param {Grid} grid
 * @param {number} index
 * @param {number} exponent
 * @param {number} largest
 * @param {boolean} stop  Whether Tab stops here.
 */
function cell(grid, index, exponent, largest, stop) {
  const x = grid.numbers[index];
  const share = x === null || !largest ? 0 : Math.sqrt(Math.abs(x) / largest) * 45;
  const classes = [index === grid.chosen ? 'chosen' : '', grid.marked.has(index) ? 'marked' : ''].filter(Boolean);
  return h(
    'td',
    {
      class: classes.join(' ') || null,
      tabindex: stop ? 0 : -1,
      'aria-selected': index === grid.chosen ? 'true' : 'false',
      dataset: { index },
      style: { '--share': `${share.toFixed(0)}%`, '--tint': (x ?? 0) < 0 ? 'var(--warm)' : 'var(--hue)' },
    },
    x === null ? '·' : (x / 10 ** exponent).toFixed(2).replace('-', '−').replace(/^−?0\.00$/, x === 0 ? '0' : '$&'),
  );
}

/** @param {Event} event @param {Grid} grid */
function chosen(event, grid) {
  const td = /** @type {HTMLElement} */ (event.target).closest('td[data-index]');
  if (td) grid.choose(Number(/** @type {HTMLElement} */ (td).dataset.index));
}

/** @param {KeyboardEvent} event @param {Grid} grid */
function moved(event, grid) {
  const td = /** @type {HTMLTableCellElement | null} */ (/** @type {HTMLElement} */ (event.target).closest('td[data-index]'));
  if (!td || event.ctrlKey || event.altKey || event.metaKey) return;
  const row = /** @type {HTMLTableRowElement} */ (td.parentElement);
  const other = (/** @type {Element | null} */ line) => line?.children[td.cellIndex];
  const to = {
    ArrowLeft: td.previousElementSibling,
    ArrowRight: td.nextElementSibling,
    ArrowUp: other(row.previousElementSibling),
    ArrowDown: other(row.nextElementSibling),
    Home: row.children[1],
    End: row.lastElementChild,
  }[event.key];
  if (event.key === 'Enter' || event.key === ' ') {
    event.preventDefault();
    chosen(event, grid);
  } else if (to instanceof HTMLTableCellElement && to.dataset.index) {
    event.preventDefault();
    td.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }
}

/**
 * The exponent of ten by which numbers are shown with two decimals: 0 for those of an everyday size.
 * @param {(number | null)[]} numbers
 */
function unit(numbers) {
  const largest = numbers.reduce((/** @type {number} */ most, x) => Math.max(most, Math.abs(x ?? 0)), 0);
  if (!largest || (largest >= 0.1 && largest < 100)) return 0;
  return Math.floor(Math.log10(largest));
}

/** @param {Set<number>} marked @param {number} begin @param {number} size */
function first(marked, begin, size) {
  for (const index of marked) if (index >= begin && index < begin + size) return index;
  return undefined;
}

/**
 * The rows or columns around one of them.
 * @param {number} at
 * @param {number} size
 * @returns {[number, number]}
 */
function around(at, size) {
  const begin = Math.max(0, Math.min(at - MOST / 2, size - MOST));
  return [begin, Math.min(size, begin + MOST)];
}
