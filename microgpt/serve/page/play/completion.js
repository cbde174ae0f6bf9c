// @ts-check
// The beginning of a text that the model goes on with, scored while it is typed.

import { aborted } from '../api.js';
import { enable, fill, h } from '../dom.js';
import { load, save } from './kept.js';
import { Part, path } from './tree.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {{alarm: HTMLElement, failed: (error: unknown) => void, say: (text: string) => void, signal: AbortSignal}} Tools */

const TYPING = 60; // milliseconds without a key after which a text is scored

/**
 * @param {Session} session
 * @param {Tools} tools
 */
export function completion(session, tools) {
  const key = `prompt.${session.model.split('@')[0]}`; // one per run: another may not know its characters
  let typed = load(key, '');
  const area = h('textarea', { id: 'prompt', rows: 2, spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off', placeholder: 'empty: from the beginning of a text', value: typed });
  const go = h('button', { class: 'first', type: 'submit' }, 'Generate');
  const stop = h('button', { type: 'button', onclick: () => session.stop() }, 'Stop');
  const more = h('button', { type: 'button', onclick: () => run(() => session.answer && session.generate(session.answer)) }, 'Continue');
  const again = h('button', { type: 'button', onclick: () => run(() => session.answer && session.regenerate(session.answer)) }, 'Regenerate');
  const edit = h('button', { type: 'button', onclick: take, title: 'the whole text as the beginning of another one' }, 'Edit');
  const element = h('form', { class: 'card composer' }, h('label', { class: 'name', for: 'prompt' }, 'Begin a text'), area, h('div', { class: 'row buttons' }, go, stop, more, again, edit));
  /** @type {Part} */
  let prompt = new Part(null, 'prompt', { text: typed }); // the one that the text area shows
  let timer = 0;
  let scoring = new AbortController();

  element.addEventListener('submit', (event) => {
    event.preventDefault();
    run(generate);
  });
  area.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run(generate);
  });
  area.addEventListener('input', () => {
    typed = area.value;
    save(key, typed);
    session.stop();
    prompt = new Part(null, 'prompt', { text: typed });
    session.current = prompt;
    session.listener.changed();
    clearTimeout(timer);
    timer = setTimeout(score, TYPING);
  });

  /** @param {() => unknown} action */
  function run(action) {
    fill(tools.alarm);
    area.removeAttribute('aria-invalid');
    clearTimeout(timer);
    scoring.abort();
    Promise.resolve()
      .then(action)
      .catch(tools.failed);
  }

  function generate() {
    const same = session.roots.find((root) => root.text === prompt.text && root.model === session.model);
    if (same) prompt = same;
    else session.begin(prompt);
    return session.generate(new Part(prompt, 'answer'));
  }

  /** The whole text as a prompt; its tokens stay until it is changed. */
  function take() {
    const parts = path(session.current);
    const text = parts.map((part) => part.shown).join('');
    const tokens = parts.some((part) => part.cut >= 0) ? [] : parts.flatMap((part) => part.tokens);
    prompt = new Part(null, 'prompt', { text, tokens });
    area.value = typed = text;
    save(key, typed);
    session.current = prompt;
    session.listener.changed();
    if (!tokens.length) score();
    area.focus();
  }

  async function score() {
    scoring.abort();
    scoring = new AbortController();
    tools.signal.addEventListener('abort', () => scoring.abort(), { once: true });
    if (!prompt.text) return;
    try {
      await session.score(prompt, scoring.signal);
      fill(tools.alarm);
      area.removeAttribute('aria-invalid');
    } catch (error) {
      if (aborted(error)) return;
      area.setAttribute('aria-invalid', 'true');
      tools.failed(error);
    }
  }

  return {
    element,
    draft: () => null,
    actions: () => [],
    update() {
      const running = session.running !== null;
      const written = !running && session.answer !== null;
      enable([[go, !running], [stop, running], [more, written && session.continues], [again, written], [edit, written]]);
      const shown = path(session.current)[0];
      if (shown && shown !== prompt) {
        prompt = shown;
        area.value = typed = shown.text;
      }
    },
    begin() {
      if (session.answer && path(session.current)[0].text === typed) return; // it was recalled
      session.current = prompt;
      session.listener.changed();
      score();
    },
    /** The model is another one. */
    follow() {
      if (session.answer) return;
      prompt = new Part(null, 'prompt', { text: typed });
      this.begin();
    },
    end() {
      clearTimeout(timer);
      scoring.abort();
    },
  };
}
