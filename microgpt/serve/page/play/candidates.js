// @ts-check
// The panel of a token: the likeliest ones in its place, before and after the sampling's filters.

import { fill, h, rove } from '../dom.js';
import { percent } from '../format.js';
import { name, share, surprise } from './tokens.js';

/** @typedef {import('./tree.js').Part} Part */
/** @typedef {import('./tree.js').Token} Token */
/** @typedef {import('./tree.js').Candidate} Candidate */
/** @typedef {{part: Part, at: number, token: Token, element: HTMLElement}} Place */

/**
 * @param {HTMLElement} panel
 * @param {object} options
 * @param {(place: Place, candidate: Candidate) => void} options.chosen
 * @param {(place: Place) => void} options.back  The focus goes back to the token.
 * @param {(id: number) => boolean} options.allowed  Whether a token may stand in a text: a special one may not, but the end.
 * @param {number} options.end  The token that ends a text.
 */
export function candidates(panel, { chosen, back, allowed, end }) {
  /** @type {Place | null} */
  let shown = null;
  const list = h('ol', { class: 'list', 'aria-label': 'Candidates' });
  const head = h('p', { class: 'head' });
  const columns = h('div', { class: 'columns small soft', 'aria-hidden': 'true' }, h('span'), h('span', null, 'model'), h('span', null, 'with sampling'));
  const hint = h('p', { class: 'small soft' }, 'Point at a token, or reach one with the arrow keys; a click or Enter on another candidate goes on from there.');
  fill(panel, h('h2', null, 'In its place'), head, columns, list, hint);
  columns.hidden = true;

  list.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && shown) {
      back(shown);
      event.stopPropagation();
    }
  });

  /** @param {Place} place */
  function show(place) {
    shown?.element.removeAttribute('aria-current');
    shown = place;
    const { token, element } = place;
    element.setAttribute('aria-current', 'true');
    const ending = element.classList.contains('ending');
    const bits = token.logprob === null ? '' : `, a surprise of ${surprise(token.logprob).toFixed(1)} bits`;
    fill(head, h('b', { class: 'mono' }, name(token, ending)), ` ${share(token.logprob)}${bits}`);
    columns.hidden = token.candidates.length === 0;
    const focused = list.contains(document.activeElement) ? rows().indexOf(/** @type {HTMLElement} */ (document.activeElement)) : -1;
    fill(list, token.candidates.filter((each) => allowed(each.id)).map((each) => row(place, each)));
    rove(list, 'button', { vertical: true });
    if (focused >= 0) rows()[Math.min(focused, rows().length - 1)]?.focus();
  }

  /** @returns {HTMLElement[]} */
  const rows = () => [...list.querySelectorAll('button')];

  /**
   * @param {Place} place
   * @param {Candidate} candidate
   */
  function row(place, candidate) {
    const ends = candidate.id === end;
    const here = candidate.id === place.token.id;
    const word = ends ? 'the end' : name(candidate);
    const before = Math.exp(candidate.logprob);
    const label = `${word}, ${percent(before)}, ${percent(candidate.share)} with sampling${here ? ', stands here' : ''}`;
    return h(
      'li',
      null,
      h(
        'button',
        { 'aria-label': label, 'aria-current': here ? 'true' : null, onclick: () => chosen(place, candidate) },
        h('span', { class: `word mono${ends ? ' ends' : ''}` }, word),
        bar(before, 'before'),
        bar(candidate.share, 'after'),
      ),
    );
  }

  return {
    show,
    /** The token that is looked at. */
    get place() {
      return shown;
    },
    /** Take the focus to the candidates. */
    enter() {
      /** @type {HTMLElement | null} */ (list.querySelector('button[tabindex="0"]'))?.focus();
    },
    /** Forget the token, such as when it is no longer there. */
    clear() {
      shown?.element.removeAttribute('aria-current');
      shown = null;
      fill(head);
      fill(list);
      columns.hidden = true;
    },
  };
}

/**
 * A probability as a bar with its number.
 * @param {number} p
 * @param {string} kind
 */
function bar(p, kind) {
  return h('span', { class: `bar-of ${kind}${p === 0 ? ' none' : ''}`, style: { '--w': `${(100 * p).toFixed(2)}%` } }, h('span', { class: 'number' }, percent(p)));
}
