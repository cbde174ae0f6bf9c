// @ts-check
// The residual stream: its length at each position after each part of each layer.

import { h } from '../dom.js';
import { visible } from '../format.js';
import { Grid } from './grid.js';
import { stageName } from './paint.js';

/** @typedef {import('./session.js').Session} Session */

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function residualPanel(session) {
  let row = 0;
  const grid = new Grid('Length of the residual stream, by stage and position', (at, position) => {
    row = at;
    session.choose(position);
    mark();
  });
  const readout = h('p', { class: 'small', role: 'status' });
  const element = h(
    'section',
    { class: 'card' },
    h('h2', null, 'Residual stream'),
    h(
      'p',
      { class: 'small soft' },
      'Every layer reads this vector and adds to it. Shown is its length (the root of its summed squares) after each part.',
    ),
    grid.element,
    readout,
  );

  function mark() {
    grid.mark(row, session.kept.position);
    const { text, kept } = session;
    if (!text) return;
    const before = row ? text.norms[row - 1][kept.position] : 0;
    const now = text.norms[row][kept.position];
    const change = row ? `, ${before.toFixed(2)} before it` : '';
    readout.textContent = `“${visible(text.pieces[kept.position])}” (${kept.position}), ${stageName(text.stages[row])}: ${now.toFixed(2)}${change}`;
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    const { text } = session;
    if (!text) return;
    if (kind === 'look') {
      row = Math.min(row, text.stages.length - 1);
      const most = Math.max(...text.norms.flat()) || 1;
      grid.show(text.pieces.map(visible), text.stages.map(stageName), (stage, position) => {
        const norm = text.norms[stage][position];
        return { text: norm.toFixed(norm < 10 ? 2 : 1), share: norm / most };
      });
    }
    mark();
  }

  function shades() {
    const { text } = session;
    if (!text) return null;
    const last = text.norms[text.norms.length - 1];
    const most = Math.max(...last) || 1;
    return last.map((norm) => ({ share: norm / most, label: `length ${norm.toFixed(2)} at the end` }));
  }

  return { element, news, shades, legend: 'Coloured by the length of the residual stream after the last layer.' };
}
