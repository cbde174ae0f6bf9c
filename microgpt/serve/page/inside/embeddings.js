// @ts-check
// Embeddings in two dimensions: the plane in which they differ most. Near points are alike to the model.

import { aborted, ApiError } from '../api.js';
import { fill, h, refill, svg } from '../dom.js';
import { percent, visible } from '../format.js';
import { region } from '../region.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {{labels: string[], x: number[], y: number[], shares: [number, number], left_out: number}} Points */

const MATRICES = { wte: 'tokens', wpe: 'positions', lm_head: 'the output head' };
const EDGE = 24;
const NEAR = 8; // neighbours that are named

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function embeddingsPanel(session) {
  let asked = '';
  /** @type {Points | null} */
  let points = null;
  const problem = h('p', { class: 'error', role: 'alert' });
  const choice = h(
    'select',
    { id: 'embedding' },
    Object.entries(MATRICES).map(([value, name]) => h('option', { value, selected: value === session.kept.embedding }, name)),
  );
  choice.addEventListener('change', () => {
    session.kept.embedding = choice.value;
    load();
  });
  const facts = h('p', { class: 'small soft' });
  const plot = h('div', { class: 'plot' });
  const readout = h('p', { class: 'small', role: 'status' });
  const table = region('Coordinates', 'short');
  const details = h('details', null, h('summary', null, 'As a table'), table);
  details.addEventListener('toggle', showTable);
  const picker = h('p', { class: 'row' }, h('label', { for: 'embedding', class: 'name' }, 'Embeddings of'), choice);
  const element = h('section', { class: 'card' }, h('h2', null, 'Embeddings'), picker, problem, facts, plot, readout, details);
  const sizes = new ResizeObserver(draw);
  sizes.observe(plot);

  async function load() {
    const { kept, context } = session;
    const question = `${context.model} ${kept.embedding}`;
    if (asked === question) return;
    asked = question;
    try {
      const found = await session.askModel('embeddings', { matrix: kept.embedding });
      if (asked !== question) return;
      points = found;
      problem.textContent = '';
    } catch (error) {
      if (aborted(error)) return;
      if (!(error instanceof ApiError)) throw error;
      if (asked !== question) return;
      asked = ''; // it is asked again
      points = null;
      problem.textContent = error.message;
    }
    draw();
    showTable();
  }

  function draw() {
    if (!points || !plot.clientWidth) {
      fill(plot);
      fill(facts);
      return;
    }
    const { labels, left_out, shares, x, y } = points;
    const rest = left_out ? ` ${left_out.toLocaleString('en')} more tokens are left out.` : '';
    facts.textContent =
      `${labels.length.toLocaleString('en')} points in the plane of their first two principal components, which hold ` +
      `${percent(shares[0])} and ${percent(shares[1])} of the variance.${rest} Near points are alike to the model.`;
    const width = plot.clientWidth;
    const height = Math.round(Math.min(560, Math.max(260, width * 0.62)));
    const across = scale(x, EDGE, width - 2 * EDGE);
    const down = scale(y, height - EDGE, EDGE - (height - EDGE));
    const places = labels.map((label, i) => ({ i, label: visible(label), x: across(x[i]), y: down(y[i]) }));
    const free = roomFor(places);
    const items = places.map(({ i, label, x: cx, y: cy }) =>
      svg(
        'g',
        { class: 'point', role: 'listitem', tabindex: -1, 'aria-label': label, 'data-at': i },
        svg('circle', { cx, cy, r: free[i] ? 2.5 : 3.5 }),
        svg('text', { x: cx + 5, y: cy + 4, class: free[i] ? null : 'hides' }, label),
      ),
    );
    const picture = svg(
      'svg',
      { viewBox: `0 0 ${width} ${height}`, width, height, role: 'list', 'aria-label': 'Points, from left to right' },
      ...[...places].sort((a, b) => a.x - b.x).map(({ i }) => items[i]),
    );
    refill(plot, picture);
    /** @type {SVGElement[]} */
    const ordered = [...picture.querySelectorAll('g')];
    ordered[0]?.setAttribute('tabindex', '0');
    picture.addEventListener('keydown', (event) => {
      const at = ordered.indexOf(/** @type {SVGElement} */ (event.target));
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: ordered.length - 1 }[event.key];
      if (at < 0 || to === undefined || !ordered[to]) return;
      event.preventDefault();
      ordered[at].setAttribute('tabindex', '-1');
      ordered[to].setAttribute('tabindex', '0');
      ordered[to].focus();
    });
    for (const kind of ['focusin', 'pointerover']) {
      picture.addEventListener(kind, (event) => {
        const item = event.target instanceof Element ? event.target.closest('g') : null;
        if (item) tell(Number(item.getAttribute('data-at')), items);
      });
    }
  }

  /**
   * @param {number} at
   * @param {SVGElement[]} items
   */
  function tell(at, items) {
    if (!points) return;
    const { labels, x, y } = points;
    const distance = (/** @type {number} */ i) => Math.hypot(x[i] - x[at], y[i] - y[at]);
    const near = labels.map((_, i) => i).filter((i) => i !== at).sort((a, b) => distance(a) - distance(b)).slice(0, NEAR);
    items.forEach((item, i) => item.classList.toggle('near', i === at || near.includes(i)));
    readout.textContent = `“${visible(labels[at])}” is nearest to ${near.map((i) => `“${visible(labels[i])}”`).join(', ')}`;
  }

  function showTable() {
    if (!details.open || !points) return;
    const { labels, x, y } = points;
    const rows = labels.map((label, i) =>
      h('tr', null, h('th', { scope: 'row' }, visible(label)), h('td', { class: 'number' }, x[i].toFixed(3)), h('td', { class: 'number' }, y[i].toFixed(3))),
    );
    const names = ['', 'first', 'second'].map((name) => (name ? h('th', { scope: 'col' }, name) : h('td', null)));
    fill(table, h('table', null, h('thead', null, h('tr', null, names)), h('tbody', null, rows)));
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind === 'look') load();
  }

  return { element, news, end: () => sizes.disconnect() };
}

/**
 * Numbers to places from `first` on over `length`.
 * @param {number[]} values
 * @param {number} first
 * @param {number} length
 * @returns {(value: number) => number}
 */
function scale(values, first, length) {
  const least = Math.min(...values);
  const range = Math.max(...values) - least || 1;
  return (value) => first + ((value - least) / range) * length;
}

/**
 * The points whose labels overlap no label before them.
 * @param {{label: string, x: number, y: number}[]} places
 * @returns {boolean[]}
 */
function roomFor(places) {
  /** @type {{left: number, right: number, y: number}[]} */
  const taken = [];
  return places.map(({ label, x, y }) => {
    const box = { left: x - 4, right: x + 8 + 8 * label.length, y };
    const clash = taken.some((other) => box.left < other.right && other.left < box.right && Math.abs(other.y - y) < 13);
    if (!clash) taken.push(box);
    return !clash;
  });
}
