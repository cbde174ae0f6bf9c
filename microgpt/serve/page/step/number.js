// @ts-check
// One number: its value and gradient, the numbers it was computed from, and those that are computed from it.

import { fill, h } from '../dom.js';
import { full, short } from '../format.js';
import { region } from '../region.js';
import { formula, readersOf } from './formulas.js';
import { wordsOf } from './words.js';

/** @typedef {import('./numbers.js').Step} Step */
/** @typedef {import('./numbers.js').Operation} Operation */
/** @typedef {import('./numbers.js').Place} Place */

const MOST = 64; // numbers of a list that are shown

/**
 * @param {Step} step
 * @param {Place} place
 * @param {(place: Place) => void} follow  Go to a number, where it is computed.
 * @param {(weight: Place) => void} update  Go to the update of a weight.
 * @returns {HTMLElement}
 */
export function numberOf(step, place, follow, update) {
  const { values, gradients } = step.array(place.array);
  const value = values[place.index];
  const head = h('h2', null, h('span', { class: 'mono' }, step.label(place)), ' ', meaning(step, place));
  if (value === null) {
    return h('div', null, head, h('p', null, 'Masked, or not finite: no position sees the ones after it.'));
  }
  return h(
    'div',
    null,
    head,
    h(
      'dl',
      { class: 'facts' },
      h('div', null, h('dt', null, 'value'), h('dd', { class: 'mono' }, full(value))),
      h('div', null, h('dt', null, 'gradient'), h('dd', { class: 'mono' }, full(gradients[place.index]))),
    ),
    h('div', { class: 'ways' }, comesFrom(step, place, follow, update), goesTo(step, place, follow)),
  );
}

/** @param {Step} step @param {Place} place */
function meaning(step, { array, index }) {
  const axes = step.axes(array);
  const names = step.indices(array, index).map((i, k) => {
    if (axes[k] === 'token') return `token “${step.answer.vocabulary[i]}”`;
    if (axes[k] === 'key') return `of position ${i}`;
    return `${axes[k]} ${i}${axes[k] === 'position' && array !== 'wpe' ? ` “${step.token(i)}”` : ''}`;
  });
  return h('span', { class: 'soft small' }, names.join(', '));
}

/**
 * @param {Step} step
 * @param {Place} place
 * @param {(place: Place) => void} follow
 */
function link(step, place, follow) {
  return h('button', { type: 'button', class: 'plain mono', onclick: () => follow(place) }, step.label(place));
}

/**
 * @param {Step} step
 * @param {Place} place
 * @param {(place: Place) => void} follow
 * @param {(place: Place) => void} update
 */
function comesFrom(step, place, follow, update) {
  const operation = step.byName.get(place.array);
  if (!operation) {
    return h(
      'section',
      { 'aria-label': 'Where it comes from' },
      h('h3', null, 'Where it comes from'),
      h('p', null, 'It is a weight: drawn at random before the first step, and changed a little by each one.'),
      h('button', { type: 'button', onclick: () => update(place) }, 'To its update'),
    );
  }
  const { from, slope } = formula(step, operation);
  const parts = from(place.index);
  const products = ['linear', 'scores', 'mix'].includes(operation.kind);
  return h(
    'section',
    { 'aria-label': 'Where it comes from' },
    h('h3', null, 'Where it comes from'),
    h('p', { class: 'mono formula' }, equation(step, operation, place.index)),
    products
      ? listed(step, pairs(parts), ['', 'value', '', 'value', 'product'], ([[i, a], [j, b]]) => {
          const [one, other] = [at(operation, i, a), at(operation, j, b)];
          const [x, y] = [valueOf(step, one), valueOf(step, other)];
          return [link(step, one, follow), short(x), ['× ', link(step, other, follow)], short(y), short(x * y)];
        })
      : listed(step, parts, ['', 'value', 'derivative'], ([input, index]) => {
          const one = at(operation, input, index);
          return [link(step, one, follow), short(valueOf(step, one)), short(slope(input, index, place.index))];
        }),
  );
}

/**
 * @param {Step} step
 * @param {Place} place
 * @param {(place: Place) => void} follow
 */
function goesTo(step, place, follow) {
  const readers = readersOf(step, place.array, place.index).filter(({ uses }) => uses.length);
  const sums = readers.map(({ uses }) => uses.reduce((sum, use) => sum + use.gradient * use.slope, 0));
  const total = sums.reduce((a, b) => a + b, 0);
  return h(
    'section',
    { 'aria-label': 'Where it goes to' },
    h('h3', null, 'Where it goes to, and what comes back as its gradient'),
    readers.length
      ? null
      : h('p', null, place.array === 'loss' ? 'Nowhere: it is the loss, whose gradient is 1.' : 'Nothing of this step reads it: its gradient is 0.'),
    readers.map(({ operation, uses }, i) =>
      h(
        'details',
        { open: readers.length === 1 || uses.length <= 4 },
        h('summary', null, `${operation.name}: ${uses.length} ${uses.length === 1 ? 'number' : 'numbers'}, together ${short(sums[i])}`),
        listed(step, uses, ['', 'gradient', 'derivative', 'product'], ({ out, gradient, slope }) => [
          link(step, { array: operation.name, index: out }, follow), short(gradient), `× ${short(slope)}`, short(gradient * slope),
        ]),
      ),
    ),
    readers.length > 1 ? h('p', null, `Sum of all: ${short(total)}`) : null,
  );
}

/**
 * A table of numbers; the first ones of many.
 * @template T
 * @param {Step} step
 * @param {T[]} items
 * @param {string[]} headers
 * @param {(item: T) => (import('../dom.js').Child | import('../dom.js').Child[])[]} row
 */
function listed(step, items, headers, row) {
  const list = region('Numbers', 'terms');
  fill(
    list,
    h(
      'table',
      { class: 'number' },
      h('thead', null, h('tr', null, headers.map((text) => (text ? h('th', { scope: 'col' }, text) : h('td', null))))),
      h('tbody', null, items.slice(0, MOST).map((item) => h('tr', null, row(item).map((child) => h('td', null, child))))),
    ),
    items.length > MOST ? h('p', { class: 'small soft' }, `and ${items.length - MOST} more`) : null,
  );
  return list;
}

/** @param {Operation} operation @param {number} input @param {number} index @returns {Place} */
function at(operation, input, index) {
  return { array: operation.inputs[input], index };
}

/** @param {Step} step @param {Place} place */
function valueOf(step, { array, index }) {
  return step.array(array).values[index] ?? NaN;
}

/** @template T @param {T[]} items @returns {[T, T][]} */
function pairs(items) {
  return Array.from({ length: items.length / 2 }, (_, i) => [items[2 * i], items[2 * i + 1]]);
}

/**
 * The formula in words of numbers.
 * @param {Step} step
 * @param {Operation} operation
 * @param {number} out
 */
function equation(step, operation, out) {
  const { from, value } = formula(step, operation);
  const parts = from(out);
  const x = parts.map(([input, index]) => valueOf(step, at(operation, input, index)));
  const result = short(value(out));
  const rows = step.answer.arrays[operation.name].shape.at(-1);
  switch (operation.kind) {
    case 'take': return `= ${short(x[0])}, looked up`;
    case 'add': return `= ${short(x[0])} + ${short(x[1])} = ${result}`;
    case 'norm': return `= x / √(mean of x² + 0.00001) = ${result}, over ${operation.constants.size} numbers`;
    case 'linear': case 'mix': return `= sum of ${parts.length / 2} products = ${result}`;
    case 'scores': return `= sum of ${parts.length / 2} products / √${operation.constants.size} = ${result}`;
    case 'softmax': return `= e^x / sum of e^x = ${result}, over ${parts.length} of ${rows}`;
    case 'rotate': return `= x cos + partner sin = ${result}`;
    case 'scale': return `= ${short(x[0])} × ${short(operation.constants.factors[out])} = ${result}`;
    case 'relu': return `= max(0, ${short(x[0])}) = ${result}`;
    case 'relu2': return `= max(0, ${short(x[0])})² = ${result}`;
    case 'gelu': return `= gelu(${short(x[0])}) = ${result}`;
    case 'softcap': return `= ${operation.constants.cap} tanh(${short(x[0])} / ${operation.constants.cap}) = ${result}`;
    case 'losses': return `= −ln ${short(x[0])} = ${result}`;
    default: return `= mean of ${x.length} losses = ${result}`;
  }
}

/**
 * The update of a weight, line by line.
 * @param {Step} step
 * @param {Place} place
 * @returns {HTMLElement}
 */
export function updateOf(step, place) {
  const { lr, scale, optim, step: before } = step.answer;
  const array = step.array(place.array);
  const of = (/** @type {(number | null)[] | undefined} */ numbers) => (numbers ?? [])[place.index] ?? NaN;
  const [w, g, m, v] = [of(array.values), of(array.gradients), of(array.m), of(array.v)];
  const [newM, newV, newW] = [of(array.new_m), of(array.new_v), of(array.new_values)];
  const [share1, share2] = [1 - optim.beta1 ** (before + 1), 1 - optim.beta2 ** (before + 1)];
  /** @type {[string, string, number][]} */
  const lines = [
    ...(scale === 1 ? [] : [/** @type {[string, string, number]} */ (['gradient, clipped', `${short(g)} × ${short(scale)}`, g * scale])]),
    ['m, the mean of gradients', `${optim.beta1} × ${short(m)} + ${short(1 - optim.beta1)} × ${short(g * scale)}`, newM],
    ['v, the mean of their squares', `${optim.beta2} × ${short(v)} + ${short(1 - optim.beta2)} × ${short(g * scale)}²`, newV],
    ['m, corrected for its beginning at 0', `${short(newM)} / (1 − ${optim.beta1}^${before + 1})`, newM / share1],
    ['v, corrected', `${short(newV)} / (1 − ${optim.beta2}^${before + 1})`, newV / share2],
    ...(optim.weight_decay
      ? [/** @type {[string, string, number]} */ (['weight, decayed', `${short(w)} − ${short(lr)} × ${optim.weight_decay} × ${short(w)}`, w - lr * optim.weight_decay * w])]
      : []),
    ['new weight', `${short(w)} − ${short(lr)} × ${short(newM / share1)} / (√${short(newV / share2)} + ${optim.eps})`, newW],
  ];
  const adam = region('Adam, line by line', 'terms');
  fill(
    adam,
    h('table', null, h('tbody', null, lines.map(([name, text, result]) =>
      h('tr', null, h('th', { scope: 'row' }, name), h('td', { class: 'mono' }, text), h('td', { class: 'mono' }, `= ${short(result)}`)),
    ))),
  );
  return h(
    'div',
    null,
    h('h2', null, h('span', { class: 'mono' }, step.label(place)), ' ', meaning(step, place)),
    h(
      'dl',
      { class: 'facts' },
      h('div', null, h('dt', null, 'weight before'), h('dd', { class: 'mono' }, full(w))),
      h('div', null, h('dt', null, 'gradient'), h('dd', { class: 'mono' }, full(g))),
      h('div', null, h('dt', null, 'weight after'), h('dd', { class: 'mono' }, full(newW))),
    ),
    adam,
  );
}
