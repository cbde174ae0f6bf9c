// @ts-check
// The text that is looked at, from its beginning to the end of its branch, token by token.

import { fill, h } from '../dom.js';
import { element, elements, placeOf } from './tokens.js';
import { text } from './tree.js';

/** @typedef {import('./tree.js').Part} Part */
/** @typedef {import('./candidates.js').Place} Place */

const NAMES = { prompt: '', answer: '', system: 'System', user: 'You', assistant: 'Answer' };

/**
 * @param {{show: (place: Place) => void, enter: () => void, actions: (part: Part) => HTMLElement[], draft: (part: Part) => HTMLElement[] | null}} callbacks
 */
export function transcript(callbacks) {
  const root = h('div', { class: 'transcript', role: 'group', 'aria-label': 'Text, token by token' });
  /** @type {Map<Part, HTMLElement>} */
  let places = new Map();
  /** @type {HTMLElement | null} */
  let current = null; // the token that Tab reaches
  let pinned = false;

  /** @param {HTMLElement} token */
  function reach(token) {
    if (current) current.tabIndex = -1;
    current = token;
    token.tabIndex = 0;
  }

  /** @param {HTMLElement} token */
  function look(token) {
    const place = placeOf(token);
    if (place) callbacks.show(place);
  }

  root.addEventListener('mouseover', (event) => {
    const place = placeOf(event.target);
    if (place && !pinned) callbacks.show(place);
  });
  root.addEventListener('click', (event) => {
    const place = placeOf(event.target);
    pinned = place !== null;
    if (place) place.element.focus();
  });
  root.addEventListener('focusin', (event) => {
    const place = placeOf(event.target);
    if (!place) return;
    pinned = true;
    reach(place.element);
    look(place.element);
  });
  root.addEventListener('focusout', (event) => {
    if (placeOf(event.target) && event.relatedTarget === null) pinned = false;
  });
  root.addEventListener('keydown', (event) => {
    const place = placeOf(event.target);
    if (!place || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === 'Enter' || event.key === ' ' || event.key === 'ArrowDown') callbacks.enter();
    else if (event.key === 'ArrowLeft') step(place.element, -1);
    else if (event.key === 'ArrowRight') step(place.element, 1);
    else if (event.key === 'Home') step(place.element, -Infinity);
    else if (event.key === 'End') step(place.element, Infinity);
    else return;
    event.preventDefault();
  });

  /**
   * @param {HTMLElement} from
   * @param {number} by
   */
  function step(from, by) {
    const all = /** @type {HTMLElement[]} */ ([...root.querySelectorAll('.t')]);
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(from) + by))]?.focus();
  }

  /**
   * The element in a place of a part.
   * @param {Part} part
   * @param {number} number
   */
  function at(part, number) {
    const all = /** @type {HTMLElement[]} */ ([...root.querySelectorAll('.t')]);
    return all.find((found) => {
      const place = placeOf(found);
      return place?.part === part && place.at === number;
    });
  }

  /** @param {Part} part */
  function content(part) {
    if (part.written || part.tokens.length) {
      const found = elements(part);
      const lost = part.written ? '' : part.text.slice(0, Math.max(0, part.text.length - text(part.tokens).length));
      return [lost && h('span', { class: 'lost', title: 'the context has no room for this' }, lost), ...found];
    }
    return [h('span', { class: 'given' }, part.text)];
  }

  return {
    root,
    /**
     * @param {Part[]} parts
     * @param {boolean} chat
     */
    render(parts, chat) {
      const focused = /** @type {HTMLElement | null} */ (root.contains(document.activeElement) ? document.activeElement : null);
      const held = focused && placeOf(focused);
      places = new Map();
      current = null;
      pinned = false;
      if (chat) {
        fill(root, parts.map((part) => {
          const place = h('div', { class: 'tokens' }, callbacks.draft(part) ?? content(part));
          places.set(part, place);
          return h('section', { class: `turn ${part.role}`, 'aria-label': NAMES[part.role] }, h('header', null, h('h2', null, NAMES[part.role]), callbacks.actions(part)), place);
        }));
      } else {
        const place = h('div', { class: 'tokens' });
        for (const part of parts) {
          place.append(...content(part).filter((each) => each !== ''));
          places.set(part, place);
        }
        fill(root, place);
      }
      const first = /** @type {HTMLElement | null} */ (root.querySelector('.t'));
      if (first) reach(first);
      if (held) at(held.part, held.at)?.focus();
      else if (focused?.isConnected) focused.focus(); // a message that is being edited
    },
    /**
     * Show the last token of a part, which is the last one of its place.
     * @param {Part} part
     */
    append(part) {
      const place = places.get(part);
      if (!place) return;
      const found = element(part, part.tokens.length - 1, part.tokens[part.tokens.length - 1]);
      place.append(found);
      if (!current) reach(found);
    },
    /**
     * Underline pieces of the text that parts make, given in characters.
     * @param {Part[]} parts
     * @param {{start: number, end: number}[]} pieces
     */
    underline(parts, pieces) {
      let begin = 0;
      for (const found of root.querySelectorAll('.t:not(.ending)')) {
        const place = placeOf(found);
        if (!place || !parts.includes(place.part)) continue;
        const end = begin + [...place.token.piece].length;
        const known = pieces.some((piece) => piece.start <= begin && end <= piece.end);
        if (end > begin && known) found.classList.add('known');
        begin = end;
      }
    },
    at,
    /**
     * A token with its element.
     * @param {Part} part
     * @param {number} number
     */
    place: (part, number) => placeOf(at(part, number) ?? null),
  };
}
