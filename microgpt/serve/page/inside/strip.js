// @ts-check
// The text as a strip of tokens, of which one is chosen; a panel says how each of them is coloured.

import { h, fill, rove } from '../dom.js';
import { visible } from '../format.js';

/** @typedef {import('./session.js').Session} Session */

/**
 * @typedef {object} Shade  How a token is coloured.
 * @property {number} share  0 to 1.
 * @property {boolean} [warm]  Whether in the warm colour.
 * @property {string} [label]  The same in words, for screen readers and as a hint.
 */

export class Strip {
  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.hovers = false; // whether pointing at a token chooses it
    this.element = h('div', { class: 'strip', role: 'group', 'aria-label': 'Tokens of the text' });
    this.element.addEventListener('focusin', (event) => this.choose(event.target));
    this.element.addEventListener('click', (event) => this.choose(event.target));
    this.element.addEventListener('pointerover', (event) => {
      if (this.hovers && event.pointerType === 'mouse') this.choose(event.target);
    });
    /** @type {string[]} */
    this.pieces = [];
  }

  /** @param {EventTarget | null} target */
  choose(target) {
    const button = target instanceof Element ? target.closest('button') : null;
    if (button) this.session.choose(Number(button.dataset.at));
  }

  /** The tokens of the newest answer; the buttons stay where the text only grows, and with them the focus. */
  show() {
    const pieces = this.session.text?.pieces ?? [];
    if (pieces.join('\0') !== this.pieces.join('\0')) {
      this.pieces = pieces;
      fill(
        this.element,
        pieces.map((piece, at) => h('button', { dataset: { at: String(at) }, tabindex: -1 }, visible(piece))),
      );
    }
  }

  /** @param {Shade[] | null} shades */
  paint(shades) {
    const buttons = /** @type {HTMLButtonElement[]} */ ([...this.element.children]);
    const chosen = this.session.kept.position;
    const swapped = new Set(this.session.kept.swaps.map((swap) => swap.position));
    buttons.forEach((button, at) => {
      const shade = shades?.[at];
      button.style.setProperty('--share', (shade?.share ?? 0).toFixed(3));
      button.classList.toggle('warm', shade?.warm ?? false);
      button.classList.toggle('swapped', swapped.has(at));
      if (at === chosen) button.setAttribute('aria-current', 'true');
      else button.removeAttribute('aria-current');
      button.tabIndex = at === chosen ? 0 : -1;
      const label = shade?.label ? `, ${shade.label}` : '';
      button.setAttribute('aria-label', `${at}: ${visible(this.pieces[at])}${swapped.has(at) ? ', swapped' : ''}${label}`);
      button.title = shade?.label ?? '';
    });
    rove(this.element, 'button');
  }
}
