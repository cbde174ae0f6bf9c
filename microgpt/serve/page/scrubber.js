// @ts-check
// The time scrubber: a slider over the kept checkpoints of a run, in the bar above every view.

import { fill, h } from './dom.js';

/** @typedef {import('./types.js').Run} Run */

/**
 * Show the checkpoints of a run; nothing where there are less than two. The slider stays the same element, and keeps the
 * focus, while the run does.
 * @param {HTMLElement} place
 * @param {Run | undefined} run
 * @param {number | null} at  The step that is shown; null for the run's own choice.
 * @param {(at: number | null) => void} go
 */
export function showScrubber(place, run, at, go) {
  const kept = run?.checkpoints ?? [];
  if (!run || kept.length < 2) {
    fill(place);
    place.dataset.run = '';
    return;
  }
  if (place.dataset.run !== run.name) build(place, run.name);
  const slider = /** @type {HTMLInputElement} */ (place.querySelector('input'));
  const output = /** @type {HTMLElement} */ (place.querySelector('output'));
  const own = /** @type {HTMLButtonElement} */ (place.querySelector('button'));
  const best = kept.findIndex((checkpoint) => checkpoint.best);
  const chosen = kept.findIndex((checkpoint) => checkpoint.step === at);
  slider.max = String(kept.length - 1);
  slider.value = String(at === null ? (best < 0 ? kept.length - 1 : best) : chosen < 0 ? nearest(kept, at) : chosen);
  const words = at === null ? 'newest' : `step ${at.toLocaleString('en')}`;
  output.textContent = at === null && best >= 0 ? 'best' : words + (kept[chosen]?.best ? ', best' : '');
  slider.setAttribute('aria-valuetext', output.textContent);
  slider.oninput = () => go(kept[Number(slider.value)].step);
  own.hidden = at === null;
  own.onclick = () => {
    go(null);
    slider.focus();
  };
  const marks = kept.map((checkpoint, i) => {
    const share = i / (kept.length - 1);
    return h('i', { class: checkpoint.best ? 'best' : '', style: { '--share': share } });
  });
  fill(/** @type {HTMLElement} */ (place.querySelector('.marks')), marks);
}

/**
 * @param {HTMLElement} place
 * @param {string} name
 */
function build(place, name) {
  place.dataset.run = name;
  fill(
    place,
    h('label', { class: 'small soft', for: 'at' }, 'Checkpoint'),
    h(
      'div',
      { class: 'track' },
      h('input', { type: 'range', id: 'at', min: 0, step: 1 }),
      h('div', { class: 'marks', 'aria-hidden': 'true' }),
    ),
    h('output', { class: 'small number', for: 'at' }),
    h('button', { class: 'plain small', title: 'Back to the default checkpoint', 'aria-label': 'Default checkpoint' }, '✕'),
  );
}

/**
 * @param {{step: number}[]} kept
 * @param {number} at
 */
function nearest(kept, at) {
  const apart = kept.map((checkpoint) => Math.abs(checkpoint.step - at));
  return apart.indexOf(Math.min(...apart));
}
