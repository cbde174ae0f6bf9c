// @ts-check
// All texts of the session as a tree that one can walk in.

import { fill, h, rove } from '../dom.js';

/** @typedef {import('./tree.js').Part} Part */

const NAMES = { prompt: 'Prompt', answer: 'Text', system: 'System', user: 'You', assistant: 'Answer' };

/**
 * Show the tree below some first parts.
 * @param {HTMLElement} panel
 * @param {Part[]} roots
 * @param {Part | null} current
 * @param {(part: Part) => void} chosen
 */
export function branches(panel, roots, current, chosen) {
  const focused = panel.contains(document.activeElement);
  panel.hidden = count(roots) < 2;
  const tree = h('ul', { role: 'tree', 'aria-label': 'Branches' }, roots.map((part) => item(part, 1)));
  fill(panel, h('h2', null, 'Branches'), tree);
  rove(tree, '[role="treeitem"]', { vertical: true });
  tree.addEventListener('keydown', (event) => {
    const at = /** @type {HTMLElement} */ (event.target);
    if (event.key === 'ArrowLeft') /** @type {HTMLElement | null} */ (at.parentElement?.closest('[role="treeitem"]'))?.focus();
    else if (event.key === 'ArrowRight') /** @type {HTMLElement | null} */ (at.querySelector('[role="treeitem"]'))?.focus();
    else if (event.key === 'Enter' || event.key === ' ') at.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  if (focused) /** @type {HTMLElement | null} */ (tree.querySelector('[aria-selected="true"]'))?.focus();

  /**
   * @param {Part} part
   * @param {number} level
   * @returns {HTMLElement}
   */
  function item(part, level) {
    const here = part === current;
    const inner = part.children.length ? h('ul', { role: 'group' }, part.children.map((child) => item(child, level + 1))) : null;
    const row = h(
      'span',
      { class: 'branch' },
      h('span', { class: 'small soft' }, NAMES[part.role]),
      ' ',
      h('span', { class: 'mono' }, snippet(part.shown)),
      !part.parent && part.model.includes('@') && h('span', { class: 'small soft' }, ` step ${part.model.split('@').pop()}`),
      part.note && h('span', { class: 'small soft note' }, part.note),
    );
    return h(
      'li',
      {
        role: 'treeitem',
        'aria-level': level,
        'aria-selected': here ? 'true' : 'false',
        'aria-expanded': inner ? 'true' : null,
        tabindex: here ? 0 : -1,
        onclick: (/** @type {Event} */ event) => {
          event.stopPropagation();
          chosen(part);
        },
      },
      row,
      inner,
    );
  }
}

/**
 * @param {Part[]} parts
 * @returns {number}
 */
function count(parts) {
  return parts.reduce((sum, part) => sum + (part.written ? 1 : 0) + count(part.children), 0);
}

/** @param {string} text */
function snippet(text) {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > 40 ? `${line.slice(0, 26)} … ${line.slice(-10)}` : line || '∅';
}
