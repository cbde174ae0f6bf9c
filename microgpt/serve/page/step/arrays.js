// @ts-check
// The arrays of a stage: what an operation computes and reads, or their gradients, or the update of a weight.

import { formula, readersOf } from './formulas.js';
import { gridOf } from './grid.js';

/** @typedef {import('./numbers.js').Place} Place */

/**
 * @typedef {object} Shown
 * @property {import('./numbers.js').Step} step
 * @property {import('./stages.js').Stage} stage
 * @property {Place} place  The chosen number.
 * @property {number} position
 * @property {(place: Place) => void} choose
 * @property {(place: Place) => void} follow  Go to where a number is computed.
 */

/**
 * @param {Shown} shown
 * @returns {HTMLElement[]}
 */
export function gridsOf(shown) {
  return shown.stage.operation ? operationOf(shown, shown.stage.operation) : updateOf(shown);
}

/**
 * The array that an operation computes and those that it reads, or their gradients: what comes in and what goes on.
 * @param {Shown} shown
 * @param {import('./numbers.js').Operation} operation
 */
function operationOf(shown, operation) {
  const { step, stage } = shown;
  const back = stage.phase === 'backward';
  const marks = marksOf(shown);
  return [...new Set([operation.name, ...operation.inputs])].map((array) => {
    const { values, gradients } = step.array(array);
    const ours = array === operation.name;
    return grid(shown, array, {
      title: back ? `gradient of ${array}` : array,
      numbers: back ? gradients : values,
      note: ours ? (back ? 'comes in' : 'computed here') : back ? 'goes on' : step.isWeight(array) ? 'weights' : '',
      marked: marks.get(array) ?? new Set(),
      choose: (index) => (ours ? shown.choose : shown.follow)({ array, index }),
    });
  });
}

/**
 * The numbers that the chosen one is computed from, and those that are computed from it.
 * @param {Shown} shown
 * @returns {Map<string, Set<number>>}
 */
function marksOf({ step, place: { array, index } }) {
  /** @type {Map<string, Set<number>>} */
  const found = new Map();
  const operation = step.byName.get(array);
  const add = (/** @type {string} */ name, /** @type {number} */ i) =>
    found.set(name, (found.get(name) ?? new Set()).add(i));
  if (operation) for (const [input, i] of formula(step, operation).from(index)) add(operation.inputs[input], i);
  for (const { operation: reader, uses } of readersOf(step, array, index)) uses.forEach(({ out }) => add(reader.name, out));
  return found;
}

/**
 * The update of a weight: its gradient, the moments, and the change.
 * @param {Shown} shown
 */
function updateOf(shown) {
  const { array } = shown.stage;
  const { values, gradients, new_values: after = [], new_m: m = [], new_v: v = [] } = shown.step.array(array);
  const change = after.map((x, i) => (x ?? NaN) - (values[i] ?? NaN));
  /** @type {[string, (number | null)[]][]} */
  const parts = [
    [`gradient of ${array}`, gradients],
    ['m', m],
    ['v', v],
    [`change of ${array}`, change],
    [`new ${array}`, after],
  ];
  return parts.map(([title, numbers]) =>
    grid(shown, array, {
      title,
      numbers,
      note: '',
      marked: new Set(),
      choose: (index) => shown.choose({ array, index }),
    }),
  );
}

/**
 * @param {Shown} shown
 * @param {string} array
 * @param {Pick<import('./grid.js').Grid, 'title' | 'numbers' | 'note' | 'marked' | 'choose'>} rest
 */
function grid({ step, place, position }, array, rest) {
  return gridOf({
    array,
    shape: step.array(array).shape,
    axes: step.axes(array),
    chosen: array === place.array ? place.index : null,
    position: step.isWeight(array) ? null : position,
    header: (axis, i) => {
      if (axis === 'token') return step.answer.vocabulary[i];
      return (axis === 'position' || axis === 'key') && array !== 'wpe' ? step.token(i) : String(i);
    },
    ...rest,
  });
}
