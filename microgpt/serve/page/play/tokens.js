// @ts-check
// Tokens as text: each one coloured by its probability or its surprise, to be pointed at, focused and chosen.

import { h } from '../dom.js';
import { percent, visible } from '../format.js';

/** @typedef {import('./tree.js').Part} Part */
/** @typedef {import('./tree.js').Token} Token */

/** The token of an element. */
/** @type {WeakMap<Element, {part: Part, at: number, token: Token}>} */
const places = new WeakMap();

const BITS = 8; // of surprise that have the full colour

/**
 * @param {Part} part
 * @param {number} at
 * @param {Token} token
 * @param {boolean} [ending]  Whether it is the token that ended the part.
 * @returns {HTMLElement}
 */
export function element(part, at, token, ending = false) {
  const partial = token.piece === '' && !ending;
  const shown = ending ? 'end' : partial ? '·' : token.piece;
  const classes = ['t', part.written ? 'drawn' : 'given'];
  if (ending) classes.push('ending');
  if (partial) classes.push('partial');
  if (token.piece.includes('\n')) classes.push('line');
  if (part.cut >= 0 && at >= part.cut && !ending) classes.push('cut');
  const found = h(
    'span',
    { class: classes.join(' '), role: 'button', tabindex: -1, 'aria-label': `${name(token, ending)}, ${share(token.logprob)}` },
    shown,
  );
  if (token.logprob !== null) {
    found.style.setProperty('--p', Math.exp(token.logprob).toFixed(3));
    found.style.setProperty('--s', Math.min(1, surprise(token.logprob) / BITS).toFixed(3));
  }
  places.set(found, { part, at, token });
  return found;
}

/**
 * The token of an element, or of the one around it.
 * @param {EventTarget | null} target
 */
export function placeOf(target) {
  const found = target instanceof Element ? target.closest('.t') : null;
  const place = found && places.get(found);
  return place ? { element: /** @type {HTMLElement} */ (found), ...place } : null;
}

/**
 * All elements of a part's tokens, the one that ended it too.
 * @param {Part} part
 * @returns {HTMLElement[]}
 */
export function elements(part) {
  const found = part.tokens.map((token, at) => element(part, at, token));
  if (part.ending) found.push(element(part, part.tokens.length, part.ending, true));
  return found;
}

/**
 * A token's name for people: spaces and line ends are visible.
 * @param {{text: string}} token
 * @param {boolean} [ending]
 */
export function name(token, ending = false) {
  return ending ? 'the end' : visible(token.text);
}

/** @param {number} logprob */
export function surprise(logprob) {
  return -logprob / Math.LN2 || 0;
}

/** @param {number | null} logprob */
export function share(logprob) {
  return logprob === null ? '' : percent(Math.exp(logprob));
}
