// @ts-check
// Two runs, or two implementations of the same step, side by side at the first number in which they differ.

import { aborted, get, post } from '../api.js';
import { fill, h } from '../dom.js';
import { full, short } from '../format.js';

/** @typedef {import('../types.js').Context} Context */
/** @typedef {{name: string, dtype: string}} Engine */

/**
 * @typedef {object} Differences  Of POST /api/differ/….
 * @property {string} a
 * @property {string} b
 * @property {string | null} first
 * @property {{name: string, count: number, of: number, first: number[] | null, values: (number | null)[] | null,
 *   largest: number | null, shapes: number[][] | null}[]} arrays
 * @property {string[]} missing
 */

/**
 * @param {Context} context
 * @param {() => {model: string, text: string | null}} step  The step that is shown; its document is null for the run's own.
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function differPanel(context, step, signal) {
  const result = h('div', { 'aria-live': 'polite' });
  const models = context.runs.flatMap((run) =>
    run.checkpoints?.length ? run.checkpoints.map(({ step }) => `${run.name}@${step}`) : run.model ? [run.name] : [],
  );
  const [a, b] = [select('Model', models, models[0]), select('Beside', models, models.at(-1))];
  const [one, other] = [select('Implementation', [], ''), select('Beside', [], '')];
  /** @type {Engine[]} */
  let engines = [];

  /** @param {() => Promise<Differences>} ask @param {boolean} step */
  async function show(ask, step) {
    fill(result, h('p', { class: 'soft' }, 'Comparing …'));
    try {
      fill(result, shown(await ask(), step));
    } catch (error) {
      if (aborted(error)) return;
      fill(result, h('p', { class: 'error', role: 'alert' }, error instanceof Error ? error.message : String(error)));
    }
  }

  const details = h(
    'details',
    { class: 'card differ', ontoggle: load },
    h('summary', null, 'Side by side: two runs, or two implementations of this step'),
    form('Compare the weights', a, b, () =>
      show(() => post('/api/differ/models', { a: a.input.value, b: b.input.value }, signal), false),
    ),
    form('Compare the step', one, other, () => {
      const [x, y] = [engines[Number(one.input.value)], engines[Number(other.input.value)]];
      const body = { ...step(), a: x, b: y };
      return show(() => post('/api/differ/rungs', body, signal), true);
    }),
    result,
  );

  async function load() {
    if (engines.length || !details.open) return;
    engines = (await get('/api/rungs', signal)).rungs;
    for (const [at, { input }] of [one, other].entries()) {
      const wanted = at ? engines.findIndex(({ dtype }) => dtype !== engines[0].dtype) : 0;
      fill(input, engines.map(({ name, dtype }, i) => h('option', { value: String(i), selected: i === wanted }, `${name}, ${dtype}`)));
    }
  }
  return details;
}

/** @param {string} name @param {string[]} options @param {string | undefined} chosen */
function select(name, options, chosen) {
  const input = h('select', null, options.map((text) => h('option', { value: text, selected: text === chosen }, text)));
  return { field: h('label', { class: 'field' }, h('span', null, name), input), input };
}

/**
 * @param {string} title
 * @param {{field: HTMLElement}} a
 * @param {{field: HTMLElement}} b
 * @param {() => Promise<void>} run
 */
function form(title, a, b, run) {
  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    run();
  };
  return h('form', { class: 'row', onsubmit: submit }, a.field, b.field, h('button', { type: 'submit' }, title));
}

/** @param {Differences} found @param {boolean} step */
function shown(found, step) {
  const first = found.arrays.find(({ name }) => name === found.first);
  const rows = found.arrays.filter(({ count, shapes }) => count || shapes);
  const equal = found.arrays.length - rows.length;
  return h(
    'div',
    null,
    first?.shapes
      ? h('p', null, `${first.name} has another shape: ${first.shapes.map((shape) => shape.join(' × ')).join(' and ')}.`)
      : first
        ? h('div', null,
            h('p', null, 'The first number that differs', step ? ', in the order of the computation,' : '', ' is ',
              h('strong', { class: 'mono' }, first.name + (first.first ?? []).map((i) => `[${i}]`).join('')), ':'),
            h('dl', { class: 'facts' },
              [found.a, found.b].map((name, i) => h('div', null, h('dt', null, name), h('dd', { class: 'mono' }, full(first.values?.[i])))),
              h('div', null, h('dt', null, 'difference'), h('dd', { class: 'mono' }, short((first.values?.[0] ?? NaN) - (first.values?.[1] ?? NaN)))),
            ))
        : h('p', null, `No number differs: ${found.a} and ${found.b} are the same to the last bit.`),
    found.missing.length ? h('p', null, `One of the two alone has ${found.missing.join(', ')}.`) : null,
    rows.length
      ? h('div', { class: 'scrolls', tabindex: 0, role: 'group', 'aria-label': 'Arrays that differ' },
          h('table', null,
            h('caption', { class: 'small soft' }, equal ? `Arrays that differ; ${equal} more are equal` : 'All arrays differ'),
            h('thead', null, h('tr', null, ['array', 'numbers that differ', 'largest difference, of its largest number'].map((text) => h('th', { scope: 'col' }, text)))),
            h('tbody', null, rows.map(({ name, count, of, largest }) => h('tr', null, h('th', { scope: 'row', class: 'mono' }, name), h('td', null, `${count.toLocaleString('en')} of ${of.toLocaleString('en')}`), h('td', { class: 'mono' }, short(largest, 2)))))))
      : null,
  );
}
