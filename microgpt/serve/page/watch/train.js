// @ts-check
// Trainings: a form that plans and starts one, and the buttons that stop and resume runs.

import { aborted, get, post } from '../api.js';
import { fill, h } from '../dom.js';
import { duration } from './panels.js';

/** @typedef {import('../types.js').Context} Context */

const LOOK_EVERY = 500; // milliseconds between two looks at a training that has just begun

/**
 * The form, closed unless `open`; nothing where no training may be started.
 * @param {Context} context
 * @param {AbortSignal} signal
 * @param {boolean} [open]
 */
export function trainer(context, signal, open = false) {
  const element = h('details', { class: 'card train', open, hidden: !context.mayTrain }, h('summary', null, 'Train a model'));
  if (!context.mayTrain) return element;
  const scenario = h('select', { id: 'train-scenario', onchange: changed });
  const text = h('textarea', { id: 'train-text', placeholder: 'or drop a text file here, or paste one', spellcheck: false, oninput: changed });
  const file = h('input', { type: 'file', id: 'train-file', accept: 'text/*,.txt,.md,.csv', onchange: () => file.files?.[0] && read(file.files[0]) });
  const name = h('input', { id: 'train-name', autocomplete: 'off', placeholder: 'as its source', maxlength: 64 });
  const size = h('select', { id: 'train-size', onchange: changed });
  const steps = h('input', { id: 'train-steps', type: 'number', min: 1, placeholder: 'as usual', oninput: changed });
  const minutes = h('input', { id: 'train-minutes', type: 'number', min: 0, step: 'any', placeholder: 'no limit', oninput: changed });
  const plan = h('div', { class: 'plan', role: 'status' });
  const error = h('p', { class: 'error', role: 'alert', hidden: true });
  const start = h('button', { class: 'first', onclick: begin }, 'Start');
  const ask = h('button', { onclick: planned }, 'Plan');
  const field = (/** @type {string} */ label, /** @type {HTMLElement} */ input, wide = false) => h('div', { class: `field${wide ? ' wide' : ''}` }, h('label', { class: 'name', for: input.id }, label), input);
  element.append(
    h('div', { class: 'fields' }, field('Scenario', scenario, true), field('Text', text, true), field('Text file', file, true), field('Name of the run', name), field('Size', size), field('Steps', steps), field('Minutes', minutes)),
    error,
    plan,
    h('div', { class: 'row' }, ask, start),
  );
  element.addEventListener('dragover', (event) => (event.preventDefault(), element.classList.add('over')));
  element.addEventListener('dragleave', () => element.classList.remove('over'));
  element.addEventListener('drop', (event) => {
    event.preventDefault();
    element.classList.remove('over');
    const dropped = event.dataTransfer?.files[0];
    if (dropped) read(dropped);
  });
  element.addEventListener('toggle', () => element.open && !scenario.options.length && choices());
  if (open) choices();

  async function choices() {
    const found = await tried(() => get('/api/trainings', signal));
    if (!found) return;
    fill(scenario, h('option', { value: '' }, 'none: a text'), ...found.scenarios.map((/** @type {any} */ one) => h('option', { value: one.name, selected: !text.value && one.name === 'names' }, one.description ? `${one.name}: ${one.description}` : one.name)));
    fill(size, h('option', { value: '' }, 'as usual'), ...found.sizes.map((/** @type {string} */ one) => h('option', { value: one }, one)));
  }

  /** @param {File} given */
  async function read(given) {
    text.value = await given.text();
    scenario.value = '';
    name.value ||= given.name.replace(/\.[^.]*$/, '').replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[^A-Za-z0-9]+/, '').slice(0, 64);
    changed();
    context.say(`${given.name}: ${text.value.length.toLocaleString('en')} characters`);
  }

  function changed() {
    if (text.value && document.activeElement === text) scenario.value = '';
    fill(plan);
    error.hidden = true;
  }

  function body() {
    return {
      scenario: scenario.value || null,
      text: scenario.value ? null : text.value || null,
      name: name.value.trim() || null,
      size: size.value || null,
      steps: steps.value ? Number(steps.value) : null,
      seconds: minutes.value ? 60 * Number(minutes.value) : null,
    };
  }

  async function planned() {
    const found = await tried(() => post('/api/trainings/plan', body(), signal));
    if (!found) return;
    const count = (/** @type {number} */ n) => n.toLocaleString('en');
    const of = (/** @type {number} */ n, /** @type {string} */ noun) => `${count(n)} ${noun}${n === 1 ? '' : 's'}`;
    /** @type {[string, string][]} */
    const facts = [
      ['text', `${of(found.documents, 'document')}, ${count(found.held_out)} of them held out, ${of(found.tokens, 'token')} (${found.tokenizer}, vocabulary ${count(found.vocabulary)})`],
      ['model', `${count(found.parameters)} parameters: ${of(found.layers, 'layer')}, ${found.width} wide, ${of(found.heads, 'head')}, context ${found.context}`],
      ['engine', `${found.engine}: ${found.why}`],
      ['steps', `${count(found.steps)}, ${found.seconds < 1 ? '' : 'about '}${duration(found.seconds)}`],
    ];
    fill(plan, h('dl', { class: 'small' }, facts.map(([term, text]) => h('div', null, h('dt', { class: 'soft' }, term), h('dd', null, text)))));
  }

  async function begin() {
    await tried(async () => {
      const { run } = await post('/api/trainings/start', body(), signal);
      context.say(`The training of ${run} has begun.`);
      for (;;) {
        const { trainings } = await get('/api/trainings', signal);
        const training = trainings.find((/** @type {any} */ one) => one.run === run);
        const { runs } = await get('/api/runs', signal);
        if (runs.some((/** @type {any} */ one) => one.name === run)) return context.go(`#/watch/${encodeURIComponent(run)}`);
        if (!training || training.ended !== null) return refused(training?.said || 'The training ended before it began.');
        fill(plan, h('p', { class: 'soft' }, training.said || 'It begins…'));
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
      }
    });
  }

  /** @param {string} message */
  function refused(message) {
    fill(plan);
    error.textContent = message;
    error.hidden = false;
  }

  /**
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T | null>}
   */
  async function tried(work) {
    error.hidden = true;
    ask.disabled = start.disabled = true;
    try {
      return await work();
    } catch (caught) {
      if (!aborted(caught)) refused(/** @type {Error} */ (caught).message);
      return null;
    } finally {
      ask.disabled = start.disabled = false;
    }
  }
  return element;
}

/**
 * A button per run that stops or resumes it, as its state allows.
 * @param {string[]} names
 * @param {Context} context
 * @param {AbortSignal} signal
 */
export function controls(names, context, signal) {
  const error = h('p', { class: 'error', role: 'alert', hidden: true });
  const buttons = new Map(names.map((name) => [name, h('button', { hidden: true, onclick: () => act(name) })]));
  const states = new Map();
  const element = h('section', { class: 'controls', 'aria-label': 'Stop or resume', hidden: true }, ...buttons.values(), error);
  let allowed = false;
  get('/api/trainings', signal).then(
    (found) => ((allowed = found.may_control), appear()),
    () => {}, // the buttons stay away
  );

  function appear() {
    element.hidden = !allowed || [...buttons.values()].every((button) => button.hidden);
  }

  /** @param {string} name */
  async function act(name) {
    const button = buttons.get(name);
    if (button?.getAttribute('aria-disabled') === 'true') return; // until its state has changed
    const what = states.get(name) === 'running' ? 'stop' : 'resume';
    error.hidden = true;
    button?.setAttribute('aria-disabled', 'true'); // it keeps the focus
    try {
      await post(`/api/trainings/${encodeURIComponent(name)}/${what}`, {}, signal);
      context.say(what === 'stop' ? `${name} is saved and ends.` : `${name} goes on.`);
    } catch (caught) {
      if (aborted(caught)) return;
      button?.removeAttribute('aria-disabled');
      error.textContent = /** @type {Error} */ (caught).message;
      error.hidden = false;
    }
  }

  return {
    element,
    /**
     * @param {string} name
     * @param {string} state
     */
    show(name, state) {
      const button = buttons.get(name);
      if (!button || states.get(name) === state) return;
      states.set(name, state);
      button.removeAttribute('aria-disabled');
      button.hidden = state !== 'running' && state !== 'stopped';
      const of = names.length > 1 ? ` ${name}` : '';
      appear();
      button.textContent = state === 'running' ? `Stop${of} and save` : `Resume${of}`;
    },
  };
}
