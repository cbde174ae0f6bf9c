// @ts-check
// A step as the service sends it: arrays by name, what computes each of them and what reads it.

/**
 * @typedef {object} Operation
 * @property {string} name  Of the array that it computes, too.
 * @property {string} role  The same in every layer.
 * @property {number | null} layer
 * @property {string} kind  Its formula, in formulas.js.
 * @property {string[]} inputs
 * @property {string[]} axes
 * @property {Record<string, any>} constants
 */

/**
 * @typedef {object} Numbers  An array, or a weight with its moments and what they become.
 * @property {number[]} shape
 * @property {(number | null)[]} values  null: masked, or not finite.
 * @property {(number | null)[]} gradients
 * @property {(number | null)[]} [m]
 * @property {(number | null)[]} [v]
 * @property {(number | null)[]} [new_values]
 * @property {(number | null)[]} [new_m]
 * @property {(number | null)[]} [new_v]
 */

/**
 * @typedef {object} Answer  Of POST /api/step.
 * @property {string} model
 * @property {number} step
 * @property {number} steps
 * @property {string[]} notes
 * @property {number[]} tokens
 * @property {string[]} vocabulary
 * @property {number} lr
 * @property {number} norm
 * @property {number} scale
 * @property {Record<string, any>} optim
 * @property {Operation[]} operations
 * @property {Record<string, Numbers>} arrays
 * @property {Record<string, Numbers>} weights
 */

/** @typedef {{array: string, index: number}} Place  A number of an array. */

/** A step, to look things up in. */
export class Step {
  /** @param {Answer} answer */
  constructor(answer) {
    this.answer = answer;
    /** @type {Map<string, Operation>} */
    this.byName = new Map(answer.operations.map((operation) => [operation.name, operation]));
    /** @type {Map<string, {operation: Operation, input: number}[]>} */
    this.readers = new Map();
    for (const operation of answer.operations) {
      operation.inputs.forEach((name, input) => {
        this.readers.set(name, [...(this.readers.get(name) ?? []), { operation, input }]);
      });
    }
  }

  /**
   * @param {string} name
   * @returns {Numbers}
   */
  array(name) {
    return this.answer.arrays[name] ?? this.answer.weights[name];
  }

  /** @param {string} name */
  isWeight(name) {
    return name in this.answer.weights;
  }

  /**
   * The meaning of an array's axes.
   * @param {string} name
   * @returns {string[]}
   */
  axes(name) {
    const operation = this.byName.get(name);
    if (operation) return operation.axes;
    if (name === 'wpe') return ['position', 'channel'];
    return name === 'wte' || name === 'lm_head' ? ['token', 'channel'] : ['output', 'input'];
  }

  /**
   * A number by its indices, for people: layer0.query[3][5].
   * @param {Place} place
   */
  label({ array, index }) {
    return array + this.indices(array, index).map((i) => `[${i}]`).join('');
  }

  /**
   * @param {string} name
   * @param {number} index
   * @returns {number[]}
   */
  indices(name, index) {
    const found = [];
    for (const size of [...this.array(name).shape].reverse()) {
      found.unshift(index % size);
      index = Math.floor(index / size);
    }
    return found;
  }

  /**
   * The text of the token that is read at a position; the one after the last position is a target alone.
   * @param {number} position
   */
  token(position) {
    return this.answer.vocabulary[this.answer.tokens[position]] ?? '';
  }

  /** Positions that are trained. */
  get positions() {
    return this.answer.tokens.length - 1;
  }
}
