// @ts-check
// How tokens are drawn: the sampling's settings.

import { h } from '../dom.js';
import { load, save } from './kept.js';

/** @typedef {{name: string, label: string, help: string, min?: number, max?: number, step?: number, off?: string}} Setting */

/** @type {Setting[]} */
const SLIDERS = [
  { name: 'temperature', label: 'Temperature', help: '0 takes the likeliest token', min: 0, max: 2, step: 0.05 },
  { name: 'top_p', label: 'Top-p', help: 'the likeliest tokens that hold this probability together; 1 is off', min: 0, max: 1, step: 0.01 },
  { name: 'min_p', label: 'Min-p', help: 'the least probability, relative to the likeliest token; 0 is off', min: 0, max: 1, step: 0.01 },
  { name: 'repetition_penalty', label: 'Repetition penalty', help: 'of tokens that occurred; 1 is off', min: 1, max: 2, step: 0.01 },
];
/** @type {Setting[]} */
const NUMBERS = [
  { name: 'top_k', label: 'Top-k', help: 'the k likeliest tokens; 0 is off', min: 0, max: 2147483647, step: 1 },
  { name: 'max_tokens', label: 'Tokens', help: 'new tokens at most; empty: the rest of the context', min: 1, max: 1048576, step: 1, off: 'all' },
  { name: 'seed', label: 'Seed', help: 'the same seed gives the same text; empty: another one each time', min: 0, max: 2 ** 53 - 1, step: 1, off: 'any' },
];

const SHAPES = new Set([...SLIDERS.map((each) => each.name), 'top_k']); // those that change probabilities

/** @type {Record<string, string>} */
const OFF = { top_p: '1', min_p: '0', repetition_penalty: '1', top_k: '0', max_tokens: '', seed: '', stop: '' };

/**
 * @param {number} temperature  The model's own.
 * @param {() => void} changed  A setting that changes probabilities has another value.
 */
export function controls(temperature, changed) {
  const wide = matchMedia('(min-width: 60rem)').matches;
  /** @type {Record<string, HTMLInputElement>} */
  const inputs = {};

  /**
   * @param {Setting} setting
   * @param {string} type
   */
  function field(setting, type) {
    const { name, label, help, min, max, step } = setting;
    const value = load(name, OFF[name] ?? String(temperature));
    const input = h('input', { type, min, max, step, value, placeholder: setting.off, title: help, 'aria-label': `${label}: ${help}` });
    inputs[name] = input;
    const output = type === 'range' ? h('output', { class: 'number' }, value) : null;
    input.addEventListener('input', () => {
      save(name, input.value);
      if (output) output.textContent = input.value;
      if (SHAPES.has(name)) changed();
    });
    return h('label', { class: `field ${type}` }, h('span', { title: help }, label, output && ' ', output), input);
  }

  const stop = h('input', { type: 'text', value: load('stop', ''), placeholder: 'none', title: 'a text before which it ends', 'aria-label': 'Stop: a text before which it ends', autocomplete: 'off', spellcheck: 'false' });
  stop.addEventListener('input', () => save('stop', stop.value));
  const element = h(
    'details',
    { class: 'card controls', open: wide },
    h('summary', null, 'Sampling'),
    h('div', { class: 'fields' }, SLIDERS.map((each) => field(each, 'range')), NUMBERS.map((each) => field(each, 'number')), h('label', { class: 'field' }, h('span', null, 'Stop'), stop)),
  );

  return {
    element,
    /**
     * The fields of a request. Throws a RangeError whose message says which setting is wrong.
     * @returns {Record<string, any>}
     */
    read() {
      /** @type {Record<string, any>} */
      const found = {};
      for (const { name, label } of [...SLIDERS, ...NUMBERS]) {
        const input = inputs[name];
        if (!input.validity.valid) throw new RangeError(`${label}: ${input.validationMessage}`);
        if (input.value !== '') found[name] = Number(input.value);
      }
      if (stop.value) found.stop = [stop.value];
      return found;
    },
  };
}
