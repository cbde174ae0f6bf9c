// @ts-check
// The weights as pictures: a matrix's cells, blue where positive and orange where negative, read by pointer or arrow keys.

import { guarded } from '../api.js';
import { fill, h } from '../dom.js';
import { region } from '../region.js';
import { cellAt, onTheme, paint } from './paint.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {{name: string, rows: number, columns: number, std: number, least: number, most: number}} Matrix */
/** @typedef {{cells: number[][], row_step: number, column_step: number, scale: number}} Picture */

/** @type {Record<string, string>} */
const ROWS = { wte: 'tokens', wpe: 'positions', lm_head: 'tokens' }; // of matrices that are no layer's

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function weightsPanel(session) {
  const ender = new AbortController();
  let model = '';
  /** @type {Matrix[]} */
  let matrices = [];
  /** @type {Picture | null} */
  let picture = null;
  let row = 0;
  let column = 0;
  const problem = h('p', { class: 'error', role: 'alert' });
  const table = region('Matrices');
  const title = h('h2', null, 'The chosen matrix');
  const facts = h('p', { class: 'small soft' });
  const canvas = h('canvas', { class: 'large matrix', tabindex: 0, role: 'img', 'aria-label': 'The chosen matrix' });
  const readout = h('p', { class: 'small number readout', role: 'status' });
  const least = h('span', { class: 'number' });
  const most = h('span', { class: 'number' });
  const scale = h('p', { class: 'row small scale' }, least, h('span', { class: 'ramp', 'aria-hidden': 'true' }), most);
  const values = region('Weights of a row', 'short');
  const details = h('details', null, h('summary', null, 'The chosen row as a table'), values);
  details.addEventListener('toggle', showRow);
  const element = h(
    'div',
    { class: 'two' },
    h('section', { class: 'card' }, h('h2', null, 'Matrices'), problem, table),
    h('section', { class: 'card', 'aria-label': 'The chosen matrix' }, title, facts, h('div', { class: 'picture' }, canvas), scale, readout, details),
  );
  canvas.addEventListener('pointermove', (event) => {
    ({ row, column } = cellAt(canvas, event));
    tell();
  });
  canvas.addEventListener('focus', tell);
  canvas.addEventListener('keydown', (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (!step || !picture) return;
    event.preventDefault();
    row = Math.max(0, Math.min(picture.cells.length - 1, row + step[0]));
    column = Math.max(0, Math.min(picture.cells[0].length - 1, column + step[1]));
    tell();
  });
  onTheme(draw, ender.signal);

  async function load() {
    if (model === session.context.model) return;
    const asked = (model = session.context.model);
    const done = await guarded(problem, async () => {
      const found = (await session.askModel('weights')).matrices;
      if (asked !== model) return;
      matrices = found;
      if (!matrices.some((matrix) => matrix.name === session.kept.matrix)) session.kept.matrix = matrices[0].name;
      showTable();
      await open(session.kept.matrix);
    });
    if (!done && asked === model) model = ''; // it is asked again
  }

  function showTable() {
    const rows = matrices.map((matrix) =>
      h(
        'tr',
        null,
        h('td', null, h('button', { class: 'plain mono', dataset: { name: matrix.name }, onclick: () => guarded(problem, () => open(matrix.name)) }, matrix.name)),
        h('td', { class: 'number' }, `${matrix.rows} × ${matrix.columns}`),
        ...[matrix.std, matrix.least, matrix.most].map((value) => h('td', { class: 'number' }, value.toFixed(3))),
      ),
    );
    const names = ['Matrix', 'Shape', 'Std', 'Least', 'Most'].map((name) => h('th', { scope: 'col' }, name));
    fill(table, h('table', null, h('thead', null, h('tr', null, names)), h('tbody', null, rows)));
  }

  /** @param {string} name */
  async function open(name) {
    session.kept.matrix = name;
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (table.querySelectorAll('button'))) {
      button.setAttribute('aria-pressed', String(button.dataset.name === name));
    }
    const { model: asked } = session.context;
    const found = await session.askModel('weight', { name });
    if (session.kept.matrix !== name || session.context.model !== asked) return;
    picture = found;
    row = Math.min(row, found.cells.length - 1);
    column = Math.min(column, found.cells[0].length - 1);
    draw();
    tell();
  }

  function draw() {
    const matrix = matrices.find((each) => each.name === session.kept.matrix);
    if (!picture || !matrix) return;
    const { cells, column_step, row_step, scale: top } = picture;
    title.textContent = matrix.name;
    const blocks = row_step * column_step > 1 ? ` Each cell is the mean of ${row_step} × ${column_step} weights.` : '';
    facts.textContent = `${matrix.rows} rows (${ROWS[matrix.name] ?? 'outputs'}) by ${matrix.columns} columns (${matrix.name in ROWS ? 'the residual stream' : 'inputs'}).${blocks}`;
    least.textContent = (-top).toFixed(3);
    most.textContent = top.toFixed(3);
    paint(canvas, cells.length, cells[0].length, (i, j) => cells[i][j] / 127);
    canvas.setAttribute('aria-label', `${matrix.name}: ${matrix.rows} by ${matrix.columns} weights; arrow keys read its cells`);
    canvas.style.setProperty('--aspect', `${cells[0].length} / ${cells.length}`);
    canvas.style.setProperty('--tall', String(Math.min(1, cells[0].length / cells.length)));
  }

  function tell() {
    if (!picture) return;
    const { cells, column_step, row_step, scale: top } = picture;
    const value = ((cells[row][column] / 127) * top).toFixed(3);
    readout.textContent = `${span('row', row, row_step)}, ${span('column', column, column_step)}: ${value}`;
    showRow();
  }

  function showRow() {
    if (!details.open || !picture) return;
    const { cells, column_step, row_step, scale: top } = picture;
    const rows = cells[row].map((cell, j) =>
      h('tr', null, h('th', { scope: 'row' }, span('column', j, column_step)), h('td', { class: 'number' }, ((cell / 127) * top).toFixed(3))),
    );
    fill(values, h('table', null, h('caption', null, span('row', row, row_step)), h('tbody', null, rows)));
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind === 'look') load();
  }

  return { element, news, end: () => ender.abort() };
}

/**
 * @param {string} name
 * @param {number} at
 * @param {number} step
 */
function span(name, at, step) {
  return step === 1 ? `${name} ${at}` : `${name}s ${at * step} to ${(at + 1) * step - 1}`;
}
