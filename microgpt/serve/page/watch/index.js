// @ts-check
// The view watch.

import { fill, h } from '../dom.js';

/** @type {import('../types.js').View['show']} */
export async function show(main, context) {
  fill(main, h('h1', { class: 'unseen' }, 'watch'), h('p', null, context.run, ' …'));
  return () => {};
}
