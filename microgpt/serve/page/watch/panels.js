// @ts-check
// The panels beside the curves: how each run is getting on, its samples, figures and differences as tables.

import { h, refill } from '../dom.js';
import { compact } from '../format.js';
import { nearest } from '../chart.js';

/** @typedef {import('./curves.js').Curves} Curves */

const ROWS = 20; // of the table of figures
const STATES = { running: 'is being trained', stopped: 'stopped', finished: 'finished', damaged: 'damaged' };

/** @param {number | null | undefined} value */
export function loss(value) {
  return value === null || value === undefined ? '–' : value.toFixed(value < 10 ? 4 : 2);
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return 'less than a second';
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

/**
 * How a run is getting on.
 * @param {Curves} curves
 * @param {number} colour
 */
export function status(curves, colour) {
  const run = curves.facts;
  const state = curves.gone ? 'its folder is gone' : run ? STATES[run.state] : '…';
  const head = h('h2', null, h('i', { class: 'swatch', style: { background: `var(--line-${colour})` } }), curves.name, ' ', h('span', { class: `state ${run?.state ?? ''}` }, state));
  if (!run) return h('section', { class: 'card status' }, head);
  const planned = run.steps_planned ?? run.steps_done;
  /** @type {[string, string][]} */
  const facts = [['step', `${run.steps_done.toLocaleString('en')} of ${planned.toLocaleString('en')}`]];
  facts.push(['loss', loss(run.loss)]);
  if (run.val_loss !== null) facts.push(['held-out', loss(run.val_loss)]);
  if (run.bits_per_byte !== null) facts.push(['bits per byte', loss(run.bits_per_byte)]);
  if (run.parameters !== null) facts.push(['parameters', run.parameters.toLocaleString('en')]);
  if (run.seconds !== null) facts.push(['trained for', duration(run.seconds)]);
  if (curves.speed) facts.push(['steps/s', compact(curves.speed)]);
  if (curves.left !== null) facts.push(['time left', duration(curves.left)]);
  return h(
    'section',
    { class: 'card status', 'aria-label': curves.name },
    head,
    run.description ? h('p', { class: 'small soft' }, run.description) : null,
    h('progress', { max: Math.max(1, planned), value: run.steps_done, 'aria-label': 'steps done' }),
    h('dl', { class: 'facts number' }, facts.map(([name, value]) => h('div', null, h('dt', null, name), h('dd', null, value)))),
    run.problem ? h('p', { class: 'error' }, run.problem) : null,
  );
}

/**
 * The samples of runs, the newest first.
 * @param {HTMLElement} place
 * @param {Curves[]} all
 */
export function samples(place, all) {
  const found = all.flatMap((curves) => curves.samples.map((sample) => ({ ...sample, name: curves.name })));
  found.sort((a, b) => b.step - a.step);
  const shown = found.slice(0, 40);
  const none = 'None yet: they come at the end of a training, or during it with --sample-every.';
  const scrolled = place.querySelector('ol')?.scrollTop ?? 0;
  refill(
    place,
    h('h2', { id: 'samples' }, 'Samples'),
    shown.length
      ? h('ol', { class: 'samples', tabindex: 0, 'aria-labelledby': 'samples' }, shown.map((sample) => h('li', null, h('span', { class: 'small soft number' }, `${all.length > 1 ? `${sample.name}, ` : ''}step ${sample.step.toLocaleString('en')}${sample.final ? ', at the end' : ''}`), h('p', { class: 'mono' }, sample.text || '(nothing)'))))
      : h('p', { class: 'small soft' }, none),
  );
  const list = place.querySelector('ol');
  if (list) list.scrollTop = scrolled;
}

/**
 * The curves as a table: some of their points.
 * @param {Curves[]} all
 */
export function figures(all) {
  const last = Math.max(0, ...all.map((curves) => Number(curves.series.training.step.at(-1) ?? 0)));
  const steps = [...new Set(Array.from({ length: ROWS }, (_, i) => Math.round((last * (i + 1)) / ROWS)))].filter(Boolean);
  const columns = all.flatMap((curves) => {
    const { training, held_out } = curves.series;
    const name = all.length > 1 ? `${curves.name}: ` : '';
    const at = (/** @type {any} */ table, /** @type {string} */ key, /** @type {number} */ step) => {
      const i = nearest(table.step, step);
      return i < 0 || table.step[i] > step * 1.1 || table.step[table.step.length - 1] < step * 0.9 ? null : (table[key]?.[i] ?? null);
    };
    const found = [{ name: `${name}loss`, cell: (/** @type {number} */ step) => loss(at(training, 'mean', step)) }];
    if (held_out.step.length) {
      found.push({ name: `${name}held-out`, cell: (step) => loss(at(held_out, 'val_loss', step)) });
      found.push({ name: `${name}bits per byte`, cell: (step) => loss(at(held_out, 'bits_per_byte', step)) });
    }
    const rate = (/** @type {number} */ step) => at(training, 'lr', step);
    found.push({ name: `${name}learning rate`, cell: (step) => (rate(step) === null ? '–' : compact(rate(step))) });
    const norm = (/** @type {number} */ step) => at(training, 'grad_norm', step);
    if (training.grad_norm?.some((value) => value !== null)) found.push({ name: `${name}gradient norm`, cell: (step) => (norm(step) === null ? '–' : compact(norm(step))) });
    return found;
  });
  return h(
    'table',
    null,
    h('caption', { class: 'unseen' }, 'Losses, learning rates and gradient norms by steps'),
    h('thead', null, h('tr', null, h('th', { scope: 'col', class: 'number' }, 'step'), columns.map((column) => h('th', { scope: 'col', class: 'number' }, column.name)))),
    h('tbody', null, steps.map((step) => h('tr', null, h('th', { scope: 'row', class: 'number' }, step.toLocaleString('en')), columns.map((column) => h('td', { class: 'number' }, column.cell(step)))))),
  );
}

/**
 * The configurations of runs as a table: of several only what differs.
 * @param {{name: string, configuration: Record<string, Record<string, any>>}[]} details
 */
export function configurations(details) {
  const flat = details.map((each) => {
    const keys = Object.entries(each.configuration).flatMap(([section, values]) => Object.entries(values).map(([key, value]) => [`${section}.${key}`, value]));
    return new Map(/** @type {[string, any][]} */ (keys));
  });
  const keys = [...new Set(flat.flatMap((each) => [...each.keys()]))];
  const rows = keys.map((key) => ({ key, values: flat.map((each) => asText(each.get(key))) }));
  const shown = details.length > 1 ? rows.filter((row) => new Set(row.values).size > 1) : rows;
  if (!shown.length) return h('p', { class: 'small soft' }, 'The configurations are the same.');
  return h(
    'table',
    null,
    h('caption', { class: 'unseen' }, 'Configurations'),
    h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'key'), details.map((each) => h('th', { scope: 'col' }, each.name)))),
    h('tbody', null, shown.map((row) => h('tr', null, h('th', { scope: 'row', class: 'mono' }, row.key), row.values.map((value) => h('td', null, value))))),
  );
}

/** @param {any} value */
function asText(value) {
  return value === undefined ? '–' : typeof value === 'string' ? value : JSON.stringify(value);
}
