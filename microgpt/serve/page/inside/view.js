// @ts-check
// The view Look inside: a text above, its tokens, and a panel per subject. The text and all choices stay for each run.

import { ApiError, aborted, post } from '../api.js';
import { fill, h, rove } from '../dom.js';
import { Session } from './session.js';
import { Strip } from './strip.js';

/**
 * @typedef {object} Panel
 * @property {HTMLElement} element
 * @property {(news: import('./session.js').News) => void} news  Called for each, and first with 'look'.
 * @property {() => import('./strip.js').Shade[] | null} [shades]  How the tokens are coloured.
 * @property {boolean} [hovers]  Whether pointing at a token chooses it.
 * @property {string} [legend]  The meaning of the colours of the tokens.
 * @property {() => void} [end]
 */

/** @typedef {Record<string, {title: string, make: (session: Session) => Panel, textless?: boolean}>} Panels */

/**
 * The view with these panels.
 * @param {Panels} panels
 * @returns {import('../types.js').View['show']}
 */
export function insideOf(panels) {
  return (main, context) => show(panels, main, context);
}

/**
 * @param {Panels} panels
 * @param {HTMLElement} main
 * @param {import('../types.js').Context} context
 */
async function show(panels, main, context) {
  const run = context.runs.find((each) => each.name === context.run);
  if (!run?.model) {
    const text = run ? `${run.name} has no checkpoint yet.` : 'There is no run here yet.';
    fill(main, h('h1', null, 'Look inside'), h('p', null, text, ' Train one, then look inside it.'));
    return () => {};
  }
  const session = new Session(context);
  const strip = new Strip(session);
  /** @type {Panel | null} */
  let panel = null;

  const error = h('p', { class: 'error', role: 'alert' });
  const facts = h('p', { class: 'small soft' });
  const legend = h('p', { class: 'small soft legend' });
  const changed = h('div', { class: 'row small changed', role: 'status' });
  const text = h('textarea', { id: 'looked', rows: 2, spellcheck: false, maxlength: 65536, autocomplete: 'off' });
  text.addEventListener('input', () => session.write(text.value));
  const message = h('input', { type: 'checkbox', id: 'message', checked: session.kept.message });
  message.addEventListener('change', () => {
    session.kept.message = message.checked;
    session.write(text.value);
  });
  const asked = h(
    'section',
    { class: 'card asked', 'aria-label': 'Text' },
    h('label', { for: 'looked', class: 'name' }, run.chat ? 'A message to look at' : 'A text to look at'),
    text,
    run.chat ? h('label', { class: 'row small' }, message, 'with the tokens of its roles') : null,
    error,
    changed,
    strip.element,
    legend,
    facts,
  );
  const alone = Object.keys(panels).length === 1;
  const tabs = h('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Subjects' });
  for (const [name, { title }] of Object.entries(panels)) {
    const chosen = name === session.kept.panel;
    const attributes = { role: 'tab', id: `tab-${name}`, 'aria-controls': 'subject', tabindex: chosen ? 0 : -1 };
    tabs.append(h('button', { ...attributes, onclick: () => open(name), onfocus: () => open(name) }, title));
  }
  rove(tabs, 'button');
  const subject = h('section', alone ? {} : { id: 'subject', role: 'tabpanel', tabindex: -1 });
  fill(main, h('h1', { class: 'unseen' }, `Look inside ${context.run}`), asked, !alone && tabs, subject);

  /** @param {string} name */
  function open(name) {
    if (panel && session.kept.panel === name) return;
    session.kept.panel = name;
    panel?.end?.();
    panel = panels[name].make(session);
    for (const tab of tabs.children) tab.setAttribute('aria-selected', String(tab.id === `tab-${name}`));
    if (!alone) subject.setAttribute('aria-labelledby', `tab-${name}`);
    fill(subject, panel.element);
    strip.hovers = panel.hovers ?? false;
    strip.element.hidden = legend.hidden = panels[name].textless ?? false;
    legend.textContent = panel.legend ?? '';
    if (session.text) panel.news('look');
    strip.paint(panel.shades?.() ?? null);
  }

  /** @param {import('./session.js').News} news */
  function onNews(news) {
    if (news === 'look') {
      error.textContent = session.error?.message ?? '';
      showFacts();
      showChanged();
      strip.show();
    }
    if (!session.error || news !== 'look') panel?.news(news);
    strip.paint(panel?.shades?.() ?? null);
  }

  function showFacts() {
    const found = session.text;
    if (!found) return;
    const dropped = found.dropped ? ` (${found.dropped} more in front do not fit)` : '';
    facts.textContent =
      `${found.tokens.length} tokens${dropped}; ${found.n_layer} layer${found.n_layer === 1 ? '' : 's'} of ${found.n_head} head${found.n_head === 1 ? '' : 's'}, ` +
      `width ${found.n_embd}, ${found.vocab_size.toLocaleString('en')} tokens in the vocabulary`;
  }

  function showChanged() {
    const { changes, swaps } = session.kept;
    const n = changes.length + swaps.length;
    const button = h('button', { class: 'plain', onclick: () => session.undo() }, 'Undo all');
    const within = changed.contains(document.activeElement);
    fill(changed, n > 0 && [h('span', null, `${n} ${n === 1 ? 'change is' : 'changes are'} in effect.`), button]);
    if (within) (n ? button : text).focus();
  }

  async function begin() {
    session.listen(onNews);
    if (session.kept.text === null) {
      const first = run?.chat ? 'hi' : await written(session);
      // What was typed meanwhile stays, and nothing is put where somebody is about to type.
      session.kept.text ??= document.activeElement === text ? text.value : first;
    }
    if (text.value !== session.kept.text) text.value = session.kept.text;
    await session.look();
  }
  open(session.kept.panel);
  begin().catch((problem) => {
    if (!aborted(problem)) throw problem;
  });

  /** @param {import('../types.js').Context} next */
  function follow(next) {
    session.context = next;
    session.look();
  }
  return Object.assign(() => (panel?.end?.(), session.end()), { follow });
}

/**
 * A text that the model writes itself, to begin with.
 * @param {Session} session
 * @returns {Promise<string>}
 */
async function written(session) {
  const body = { model: session.context.model, prompt: '', max_tokens: 24, temperature: 0.5, seed: 1 };
  try {
    return (await post('/v1/completions', body, session.aborter.signal)).choices[0].text;
  } catch (error) {
    if (error instanceof ApiError) return '';
    throw error;
  }
}
