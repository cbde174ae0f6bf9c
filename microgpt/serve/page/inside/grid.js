// @ts-check
// A table of coloured cells, positions across and stages down, through which arrow keys move.

import { fill, h } from '../dom.js';

/**
 * @typedef {object} Cell
 * @property {string} text
 * @property {number} share  0 to 1, of the colour.
 * @property {string} [label]  In words, where the text is not enough.
 */

export class Grid {
  /**
   * @param {string} label
   * @param {(row: number, column: number) => void} choose  Called when a cell takes the focus.
   */
  constructor(label, choose) {
    this.choose = choose;
    this.table = h('table', { class: 'cells', role: 'grid', 'aria-label': label });
    this.element = h('div', { class: 'scrolls' }, this.table);
    /** @type {HTMLElement[][]} */
    this.cells = [];
    this.table.addEventListener('focusin', (event) => this.chosen(event.target));
    this.table.addEventListener('click', (event) => {
      const cell = event.target instanceof Element ? event.target.closest('td') : null;
      cell?.focus();
    });
    this.table.addEventListener('keydown', (event) => this.move(event));
  }

  /**
   * @param {string[]} columns
   * @param {string[]} rows
   * @param {(row: number, column: number) => Cell} cell
   */
  show(columns, rows, cell) {
    const before = this.table.contains(document.activeElement) ? this.placeOf(document.activeElement) : null;
    this.cells = rows.map((_, row) =>
      columns.map((_, column) => {
        const { text, share, label } = cell(row, column);
        const style = { '--share': share.toFixed(3) };
        const place = { row: String(row), column: String(column) };
        return h('td', { tabindex: -1, role: 'gridcell', style, 'aria-label': label, title: label, dataset: place }, text);
      }),
    );
    const head = h('tr', null, h('td', null), columns.map((name) => h('th', { scope: 'col' }, name)));
    const body = rows.map((name, row) => h('tr', null, h('th', { scope: 'row' }, name), this.cells[row]));
    fill(this.table, h('thead', null, head), h('tbody', null, body));
    if (before) this.cells[before.row]?.[before.column]?.focus();
  }

  /**
   * @param {number} row
   * @param {number} column
   */
  mark(row, column) {
    for (const marked of this.table.querySelectorAll('td.chosen, td.beside')) {
      marked.classList.remove('chosen', 'beside');
      /** @type {HTMLElement} */ (marked).tabIndex = -1;
    }
    for (const cells of this.cells) cells[column]?.classList.add('beside');
    const cell = this.cells[row]?.[column];
    if (!cell) return;
    cell.classList.add('chosen');
    cell.tabIndex = 0;
  }

  /** @param {EventTarget | null} target */
  chosen(target) {
    const place = this.placeOf(target);
    if (place) this.choose(place.row, place.column);
  }

  /** @param {EventTarget | null} target */
  placeOf(target) {
    const { row, column } = target instanceof HTMLElement ? target.dataset : {};
    return row === undefined || column === undefined ? null : { row: Number(row), column: Number(column) };
  }

  /** @param {KeyboardEvent} event */
  move(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    const place = this.placeOf(event.target);
    if (!step || !place) return;
    event.preventDefault();
    this.cells[place.row + step[0]]?.[place.column + step[1]]?.focus();
  }
}
