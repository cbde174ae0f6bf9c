// @ts-check
// The walk through a step: a stage for every operation forward, one for each backward, and one per weight for Adam.

import { wordsOf } from './words.js';

/** @typedef {import('./numbers.js').Step} Step */
/** @typedef {import('./numbers.js').Operation} Operation */

/** @typedef {'forward' | 'backward' | 'update'} Phase */

/**
 * @typedef {object} Stage
 * @property {Phase} phase
 * @property {string} array  The one that is computed: an operation's array, or the weight that is updated.
 * @property {Operation | null} operation
 * @property {number | null} layer
 * @property {string} title
 */

/**
 * @param {Step} step
 * @returns {Stage[]}
 */
export function stagesOf(step) {
  const forward = step.answer.operations.map((operation) => stage('forward', operation));
  const backward = [...step.answer.operations].reverse().map((operation) => stage('backward', operation));
  const update = Object.keys(step.answer.weights).map((array) => ({
    phase: /** @type {Phase} */ ('update'),
    array,
    operation: null,
    layer: layerOf(array),
    title: `new ${array}`,
  }));
  return [...forward, ...backward, ...update];
}

/**
 * @param {Phase} phase
 * @param {Operation} operation
 * @returns {Stage}
 */
function stage(phase, operation) {
  const title = (phase === 'backward' ? 'back through ' : '') + wordsOf(operation.role).title;
  return { phase, array: operation.name, operation, layer: operation.layer, title };
}

/** @param {string} name @returns {number | null} */
function layerOf(name) {
  const found = /^layer(\d+)\./.exec(name);
  return found ? Number(found[1]) : null;
}

/**
 * The stage where the next layer begins, or what comes after the last one; the last stage at the end.
 * @param {Stage[]} stages
 * @param {number} at
 */
export function nextLayer(stages, at) {
  const { phase, layer } = stages[at];
  const found = stages.findIndex((other, i) => i > at && (other.layer !== layer || other.phase !== phase));
  return found < 0 ? stages.length - 1 : found;
}

/**
 * @param {Stage[]} stages
 * @param {Phase} phase
 * @param {string} [array]  The stage of this array; by default the phase's first stage.
 */
export function find(stages, phase, array) {
  return stages.findIndex((other) => other.phase === phase && (array === undefined || other.array === array));
}
