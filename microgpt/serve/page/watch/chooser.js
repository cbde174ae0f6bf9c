// @ts-check
// Which runs are shown over each other: a list of all of them, to be searched and ticked.

import { fill, h } from '../dom.js';

export const MOST_RUNS = 6; // as many as there are colours of lines
const LISTED = 100; // of very many runs; a search finds the others

/** @typedef {import('../types.js').Run} Run */

/** @type {string | null} */
let ticked = null; // the run that was ticked last, whose box has the focus when the other runs are shown

/**
 * @param {string[]} chosen
 * @param {(names: string[]) => void} choose
 */
export function chooser(chosen, choose) {
  /** @type {Run[]} */
  let runs = [];
  const search = h('input', { type: 'search', id: 'search', autocomplete: 'off', oninput: draw });
  const list = h('ul', { class: 'runs' });
  const note = h('p', { class: 'small soft' });
  const count = h('span', { class: 'soft' });
  const field = h('div', { class: 'field' }, h('label', { class: 'name', for: 'search' }, 'Find a run'), search);
  const element = h('details', { class: 'card chooser' }, h('summary', null, 'Compare runs ', count), field, list, note);

  function draw() {
    const wanted = search.value.toLowerCase();
    const found = runs.filter((run) => run.name.toLowerCase().includes(wanted));
    found.sort((a, b) => Number(chosen.includes(b.name)) - Number(chosen.includes(a.name)));
    const focused = document.activeElement instanceof HTMLInputElement ? document.activeElement.dataset.run : undefined;
    count.textContent = `(${chosen.length} of ${runs.length})`;
    field.hidden = runs.length < 10;
    fill(list, found.slice(0, LISTED).map(item));
    note.textContent = found.length > LISTED ? `${found.length - LISTED} more: search for them.` : chosen.length >= MOST_RUNS ? `At most ${MOST_RUNS} at a time.` : '';
    if (focused) list.querySelectorAll('input').forEach((input) => input.dataset.run === focused && input.focus());
  }

  /** @param {Run} run */
  function item(run) {
    const among = chosen.includes(run.name);
    const last = among && chosen.length === 1;
    const input = h('input', {
      type: 'checkbox',
      checked: among,
      disabled: last || (!among && chosen.length >= MOST_RUNS),
      dataset: { run: run.name },
      onchange() {
        ticked = run.name;
        choose(among ? chosen.filter((name) => name !== run.name) : [...chosen, run.name]);
      },
    });
    const steps = `${run.steps_done.toLocaleString('en')} steps`;
    const figure = run.val_loss ?? run.loss;
    return h('li', null, h('label', null, input, ' ', run.name, h('span', { class: 'small soft number' }, ` ${run.state}, ${steps}${figure === null ? '' : `, ${figure.toFixed(4)}`}`)));
  }

  return {
    element,
    /** Once it is on the page: open where a run was ticked, with the focus on its box. */
    resume() {
      if (ticked === null) return;
      element.open = true;
      const boxes = [...list.querySelectorAll('input')];
      (boxes.find((box) => box.dataset.run === ticked && !box.disabled) ?? boxes.find((box) => !box.disabled) ?? element.querySelector('summary'))?.focus();
      ticked = null;
    },
    /** @param {Run[]} found */
    show(found) {
      const key = (/** @type {Run[]} */ list) => JSON.stringify(list.map(({ name, state, steps_done }) => [name, state, steps_done]));
      if (key(found) === key(runs)) return;
      runs = found;
      draw();
    },
  };
}
