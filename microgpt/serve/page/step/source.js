// @ts-check
// The code beside a step: a tab per rung, with the lines of an operation marked.

import { fill, h, rove } from '../dom.js';

/**
 * @typedef {object} Source  Of POST /api/step/sources.
 * @property {string} name
 * @property {string} text
 * @property {number[]} update
 * @property {Record<string, number[]>} forward
 * @property {Record<string, number[]>} backward
 */

/** @typedef {import('./stages.js').Stage} Stage */

/** The panel. */
export class SourcePanel {
  /** @param {Source[]} sources */
  constructor(sources) {
    this.sources = sources;
    this.name = sources[0].name;
    /** @type {Stage | null} */
    this.stage = null;
    this.tabs = h('div', { class: 'segments', role: 'tablist', 'aria-label': 'Implementation' });
    this.caption = h('p', { class: 'small soft' });
    this.code = h('ol', { class: 'code' });
    this.box = h('div', { class: 'listing', tabindex: 0, role: 'tabpanel', id: 'step-code', 'aria-labelledby': '' }, this.code);
    this.element = h('section', { class: 'card source', 'aria-label': 'Code' }, this.tabs, this.caption, this.box);
    this.showTabs();
    this.open(this.name);
  }

  showTabs() {
    fill(
      this.tabs,
      this.sources.map(({ name }) =>
        h('button', {
          role: 'tab', id: `tab-${name}`, type: 'button', 'aria-controls': 'step-code',
          'aria-selected': String(name === this.name), tabindex: name === this.name ? 0 : -1,
          onclick: () => this.open(name), onfocus: () => name !== this.name && this.open(name),
        }, name),
      ),
    );
    rove(this.tabs, '[role="tab"]');
  }

  /** @param {string} name */
  open(name) {
    this.name = name;
    for (const tab of this.tabs.querySelectorAll('[role="tab"]')) {
      tab.setAttribute('aria-selected', String(tab.id === `tab-${name}`));
    }
    this.box.setAttribute('aria-labelledby', `tab-${name}`);
    const lines = this.source.text.replace(/\n$/, '').split('\n');
    fill(this.code, lines.map((line) => h('li', null, h('code', null, line || ' '))));
    if (this.stage) this.show(this.stage);
  }

  get source() {
    return /** @type {Source} */ (this.sources.find(({ name }) => name === this.name));
  }

  /**
   * Mark the lines of a stage and scroll to them.
   * @param {Stage} stage
   */
  show(stage) {
    this.stage = stage;
    const { source } = this;
    const lines = stage.phase === 'update' ? source.update : (source[stage.phase][stage.array] ?? []);
    for (const marked of this.code.querySelectorAll('[aria-current]')) marked.removeAttribute('aria-current');
    lines.forEach((line, i) => this.code.children[line - 1]?.setAttribute('aria-current', i ? 'true' : 'step'));
    const listed = lines.map(String).join(', ');
    this.caption.textContent = lines.length
      ? `${lines.length > 1 ? 'Lines' : 'Line'} ${listed} of ${source.name}`
      : `${source.name} does not compute this.`;
    const first = /** @type {HTMLElement | undefined} */ (this.code.children[lines[0] - 1]);
    if (first) this.box.scrollTop = first.offsetTop - this.box.clientHeight / 3;
  }
}
