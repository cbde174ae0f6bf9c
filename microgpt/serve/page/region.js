// @ts-check
// A part of a panel that scrolls by itself, also by keyboard.

import { h } from './dom.js';

/**
 * @param {string} label
 * @param {string} [more]  Further classes.
 */
export function region(label, more = '') {
  return h('div', { class: `scrolls ${more}`.trim(), role: 'group', 'aria-label': label, tabindex: 0 });
}
