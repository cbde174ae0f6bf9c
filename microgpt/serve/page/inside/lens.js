// @ts-check
// The logit lens: the token that every stage of the residual stream would predict next, if it were the last.

import { aborted, ApiError } from '../api.js';
import { fill, h } from '../dom.js';
import { percent, visible } from '../format.js';
import { region } from '../region.js';
import { Grid } from './grid.js';
import { stageName } from './paint.js';

/** @typedef {import('./session.js').Session} Session */

/**
 * @typedef {object} Lens  The answer of /api/inside/lens.
 * @property {number} first
 * @property {string[]} stages
 * @property {number[][][]} tokens
 * @property {number[][][]} probabilities
 * @property {Record<string, string>} pieces
 */

const TOP = 5;

/**
 * @param {Session} session
 * @returns {import('./view.js').Panel}
 */
export function lensPanel(session) {
  /** @type {Lens | null} */
  let lens = null;
  let row = -1; // the last stage, until another is chosen
  const grid = new Grid('The likeliest next token, by stage and position', (stage, column) => {
    row = stage;
    session.choose(column + (lens?.first ?? 0));
    mark();
  });
  const problem = h('p', { class: 'error', role: 'alert' });
  const candidates = region('Next tokens');
  const element = h(
    'div',
    { class: 'two wide' },
    h(
      'section',
      { class: 'card' },
      h('h2', null, 'Logit lens'),
      h(
        'p',
        { class: 'small soft' },
        'The final norm and the output head, applied after each part of each layer: the token that the model would predict ' +
          'next if it stopped there. The last row is its own prediction; the stronger the colour, the more probable.',
      ),
      problem,
      grid.element,
    ),
    h('section', { class: 'card', 'aria-label': 'Candidates' }, candidates),
  );

  async function load() {
    const asked = session.looks;
    try {
      const found = await session.ask('lens', { top: TOP });
      if (asked !== session.looks) return;
      lens = found;
      problem.textContent = '';
    } catch (error) {
      if (aborted(error)) return;
      if (!(error instanceof ApiError)) throw error;
      problem.textContent = error.message;
      return;
    }
    show();
  }

  function show() {
    const { text } = session;
    if (!lens || !text) return;
    const { first, pieces, probabilities, stages, tokens } = lens;
    if (row < 0 || row >= stages.length) row = stages.length - 1;
    grid.show(text.pieces.slice(first).map(visible), stages.map(stageName), (stage, column) => {
      const piece = visible(pieces[tokens[stage][column][0]]);
      const share = probabilities[stage][column][0];
      return { text: piece, share, label: `${piece}, ${percent(share)}` };
    });
    mark();
  }

  function mark() {
    const { text, kept } = session;
    if (!lens || !text) return;
    const column = kept.position - lens.first;
    grid.mark(row, column);
    const ids = lens.tokens[row]?.[column];
    if (!ids) {
      fill(candidates, h('p', { class: 'small soft' }, 'The model is large: only the last positions have a lens.'));
      return;
    }
    const shares = lens.probabilities[row][column];
    const found = lens.pieces;
    fill(
      candidates,
      h('h3', null, `After “${visible(text.pieces[kept.position])}” (${kept.position}), ${stageName(lens.stages[row])}`),
      h(
        'table',
        null,
        h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Next'), h('th', { scope: 'col' }, 'Probability'))),
        h(
          'tbody',
          null,
          ids.map((id, i) =>
            h(
              'tr',
              null,
              h('td', null, visible(found[id])),
              h('td', { class: 'number bar-cell', style: { '--share': shares[i] } }, percent(shares[i])),
            ),
          ),
        ),
      ),
    );
  }

  /** @param {import('./session.js').News} kind */
  function news(kind) {
    if (kind === 'look') load();
    else if (kind === 'position') mark();
  }

  return { element, news, legend: 'The table below has a column per token; choose one here or there.' };
}
