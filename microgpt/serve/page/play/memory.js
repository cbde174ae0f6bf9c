// @ts-check
// Memorising: whether a text, or a piece of it, stands in the training text word for word.

import { post } from '../api.js';
import { fill, h } from '../dom.js';

/**
 * @typedef {object} Piece
 * @property {number} start
 * @property {number} end
 * @property {number} document
 * @property {boolean} held_out
 * @property {string} before
 * @property {string} after
 */

/**
 * Look a text up, and tell it in the panel. Returns the pieces that stand in the training text, in characters of `text`.
 * @param {HTMLElement} panel
 * @param {string} model
 * @param {string} text
 * @param {AbortSignal} signal
 * @returns {Promise<Piece[]>}
 */
export async function lookUp(panel, model, text, signal) {
  const asked = [...text].slice(-16384).join('');
  if (!asked.trim()) return [];
  const found = await post('/api/memory', { model, text: asked }, signal);
  const chars = [...asked];
  panel.hidden = false;
  fill(panel, h('h2', null, 'In the training text?'), found.known ? answer(found, chars) : h('p', null, `Not known: ${found.reason}.`));
  const shift = [...text].length - chars.length;
  const pieces = found.whole ? [found.whole] : found.pieces;
  return pieces.map((/** @type {Piece} */ piece) => ({ ...piece, start: piece.start + shift, end: piece.end + shift }));
}

/**
 * @param {any} found
 * @param {string[]} chars
 * @returns {HTMLElement[]}
 */
function answer(found, chars) {
  /** @param {Piece} piece */
  const of = (piece) => chars.slice(piece.start, piece.end).join('');
  const whole = found.whole;
  const unit = found.unit;
  const lines = [];
  if (whole) {
    lines.push(h('p', null, 'Yes: all of it is ', unit, ` ${whole.document.toLocaleString('en')} of ${found.documents.toLocaleString('en')}`, whole.held_out ? ', which was held out from training.' : '.'));
  } else if (found.longest) {
    const { longest } = found;
    const times = found.times === 1 ? 'once' : `${found.times.toLocaleString('en')} times`;
    lines.push(
      h('p', null, `Not as a whole. Its longest piece that does, ${longest.end - longest.start} characters, stands there ${times}; first in ${unit} ${longest.document.toLocaleString('en')}:`),
      h('p', { class: 'place mono' }, h('span', { class: 'soft' }, longest.before), h('mark', null, of(longest)), h('span', { class: 'soft' }, longest.after)),
    );
  } else {
    lines.push(h('p', null, 'No piece of it does.'));
  }
  if (!whole && found.pieces.length > 1) {
    lines.push(
      h('details', null, h('summary', null, `${found.pieces.length} pieces of 16 characters and more, underlined above`),
        h('ul', { class: 'pieces mono small' }, found.pieces.slice(0, 50).map((/** @type {Piece} */ piece) =>
          h('li', null, h('span', { class: 'soft' }, piece.before.slice(-12)), h('mark', null, of(piece)), h('span', { class: 'soft' }, piece.after.slice(0, 12)), ` ${unit} ${piece.document}`)))),
    );
  }
  if (found.searched < chars.length) lines.push(h('p', { class: 'small soft' }, `The first ${found.searched} characters were looked for.`));
  lines.push(h('p', { class: 'small soft' }, found.source));
  return lines;
}
