// @ts-check
// The view step.

import { fill, h } from '../dom.js';

/** @type {import('../types.js').View['show']} */
export async function show(main, context) {
  fill(main, h('h1', { class: 'unseen' }, 'step'), h('p', null, context.run, ' …'));
  return () => {};
}
