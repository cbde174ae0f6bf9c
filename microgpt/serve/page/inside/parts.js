// @ts-check
// The controls of an intervention: a table of parts to switch off, a neuron's scale, a token to swap.

import { fill, h } from '../dom.js';
import { visible } from '../format.js';
import { region } from '../region.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {import('./session.js').Change} Change */
/** @typedef {{element: HTMLElement, show: () => void}} Control  `show` is called when something has changed. */

/**
 * A row per layer: the layer, its attention, each head, its MLP.
 * @param {Session} session
 * @returns {Control}
 */
export function partsTable(session) {
  const element = region('Layers and heads');
  let shape = '';

  function build(/** @type {number} */ layers, /** @type {number} */ heads) {
    const names = ['Layer', 'Attention', ...Array.from({ length: heads }, (_, i) => `Head ${i}`), 'MLP'];
    const rows = Array.from({ length: layers }, (_, layer) => {
      /** @type {Omit<Change, 'scale'>[]} */
      const parts = [
        { part: 'layer', layer, index: 0 },
        { part: 'attention', layer, index: 0 },
        ...Array.from({ length: heads }, (_, index) => ({ part: /** @type {const} */ ('head'), layer, index })),
        { part: 'mlp', layer, index: 0 },
      ];
      return h('tr', null, h('th', { scope: 'row' }, layer), parts.map((part, i) => h('td', null, toggle(part, i ? names[i] : 'Whole'))));
    });
    const head = h('tr', null, h('td', null), ['Whole', ...names.slice(1)].map((name) => h('th', { scope: 'col' }, name)));
    fill(element, h('table', { class: 'parts' }, h('thead', null, head), h('tbody', null, rows)));
  }

  /**
   * @param {Omit<Change, 'scale'>} part
   * @param {string} name
   */
  function toggle(part, name) {
    const press = () => session.change({ ...part, scale: session.scaleOf(part) === 1 ? 0 : 1 });
    const button = h('button', { 'aria-label': `${name} of layer ${part.layer}`, onclick: press }, 'on');
    toggles.push({ part, button });
    return button;
  }
  /** @type {{part: Omit<Change, 'scale'>, button: HTMLButtonElement}[]} */
  let toggles = [];

  function show() {
    const { text } = session;
    if (!text) return;
    if (shape !== `${text.n_layer} ${text.n_head}`) {
      shape = `${text.n_layer} ${text.n_head}`;
      toggles = [];
      build(text.n_layer, text.n_head);
    }
    for (const { part, button } of toggles) {
      const off = session.scaleOf(part) !== 1;
      button.setAttribute('aria-pressed', String(off));
      button.textContent = off ? 'off' : 'on';
    }
  }
  return { element, show };
}

/**
 * @param {Session} session
 * @returns {Control}
 */
export function neuronForm(session) {
  const layer = h('input', { type: 'number', id: 'neuron-layer', min: 0, value: session.kept.layer });
  const neuron = h('input', { type: 'number', id: 'neuron', min: 0, value: Math.max(0, session.kept.neuron) });
  const scale = h('input', { type: 'range', id: 'neuron-scale', min: -4, max: 4, step: 0.5, value: 1 });
  const output = h('output', { for: 'neuron-scale', class: 'number small' });
  const part = () => ({ part: /** @type {const} */ ('neuron'), layer: layer.valueAsNumber || 0, index: neuron.valueAsNumber || 0 });
  for (const input of [layer, neuron]) input.addEventListener('input', show);
  scale.addEventListener('input', () => {
    output.textContent = `× ${scale.value}`;
    session.change({ ...part(), scale: scale.valueAsNumber });
  });
  const element = h(
    'div',
    { class: 'row fields' },
    h('label', { class: 'field' }, h('span', null, 'Layer'), layer),
    h('label', { class: 'field' }, h('span', null, 'Neuron'), neuron),
    h('label', { class: 'field grows' }, h('span', null, 'Scale of what it adds'), scale),
    output,
  );

  function show() {
    const { text } = session;
    if (!text) return;
    layer.max = String(text.n_layer - 1);
    neuron.max = String(4 * text.n_embd - 1);
    scale.value = String(session.scaleOf(part()));
    output.textContent = `× ${scale.value}`;
  }
  return { element, show };
}

/**
 * @param {Session} session
 * @returns {Control}
 */
export function swapForm(session) {
  const choice = h('select', { id: 'swap' });
  const name = h('label', { for: 'swap', class: 'name' });
  let model = '';
  choice.addEventListener('change', () => {
    const option = choice.selectedOptions[0];
    if (choice.value) session.swap({ position: session.kept.position, token: Number(choice.value), piece: option.text });
    else session.unswap(session.kept.position);
  });

  async function load() {
    const asked = (model = session.context.run);
    const { labels } = await session.askModel('embeddings').catch(() => ({ labels: [] }));
    if (asked !== model) return;
    /** @type {string[]} */
    const pieces = labels;
    fill(choice, h('option', { value: '' }, 'as written'), pieces.map((piece, id) => h('option', { value: id }, visible(piece))));
    choose();
  }

  function choose() {
    const swap = session.kept.swaps.find((each) => each.position === session.kept.position);
    choice.value = swap ? String(swap.token) : '';
  }

  function show() {
    const { text, kept } = session;
    if (!text) return;
    name.textContent = `Token ${kept.position}, “${visible(text.pieces[kept.position] ?? '')}”, becomes`;
    if (model !== session.context.run) load();
    else choose();
  }
  return { element: h('div', { class: 'row' }, name, choice), show };
}
