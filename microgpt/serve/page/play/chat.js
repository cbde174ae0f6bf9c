// @ts-check
// A conversation: messages are sent, answered, edited and answered again.

import { post } from '../api.js';
import { enable, fill, h } from '../dom.js';
import { load, save } from './kept.js';
import { Part, path, unscored } from './tree.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {import('./completion.js').Tools} Tools */

/**
 * @param {Session} session
 * @param {Tools} tools
 */
export function chat(session, tools) {
  const area = h('textarea', { id: 'message', rows: 2, placeholder: 'Ask something', value: load('message', ''), oninput: () => save('message', area.value) });
  const begun = `system.${session.model.split('@')[0]}`; // one per run
  const system = h('textarea', { id: 'system', rows: 1, placeholder: 'none', value: load(begun, ''), oninput: () => save(begun, system.value) });
  const send = h('button', { class: 'first', type: 'submit' }, 'Send');
  const stop = h('button', { type: 'button', onclick: () => session.stop() }, 'Stop');
  const more = h('button', { type: 'button', onclick: () => run(() => session.answer && session.generate(session.answer)) }, 'Continue');
  const again = h('button', { type: 'button', onclick: () => run(() => session.answer && session.regenerate(session.answer)) }, 'Regenerate');
  const fresh = h('button', { type: 'button', class: 'plain', onclick: renew }, 'New chat');
  const systemBox = session.facts.roles.includes('system') && h('details', { class: 'small', open: system.value !== '' }, h('summary', null, 'System message of a new chat'), h('label', { class: 'unseen', for: 'system' }, 'System message'), system);
  const element = h('form', { class: 'card composer' }, h('label', { class: 'name', for: 'message' }, 'Message'), area, h('div', { class: 'row buttons' }, send, stop, more, again, fresh), systemBox);
  /** @type {Part | null} */
  let editing = null;
  /** @type {HTMLElement[]} */
  let drafted = []; // the text area and the buttons of that message

  element.addEventListener('submit', (event) => {
    event.preventDefault();
    run(ask);
  });
  area.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!send.disabled) run(ask);
  });

  /** @param {() => unknown} action */
  function run(action) {
    fill(tools.alarm);
    Promise.resolve()
      .then(action)
      .catch(tools.failed);
  }

  function ask() {
    const text = area.value;
    if (!text.trim()) return area.focus();
    area.value = '';
    save('message', '');
    return answer(session.current?.written ? session.current : head(), text);
  }

  /** The system message that a new chat begins with, if there is one. */
  function head() {
    const text = system.value;
    if (!text.trim()) return null;
    return session.roots.find((root) => root.role === 'system' && root.text === text && root.model === session.model) ?? session.begin(new Part(null, 'system', { text }));
  }

  /**
   * Answer a message after a part.
   * @param {Part | null} after
   * @param {string} text
   */
  function answer(after, text) {
    const user = new Part(after, 'user', { text });
    if (!after) session.begin(user);
    return session.generate(new Part(user, 'assistant'));
  }

  function renew() {
    session.stop();
    session.current = null;
    session.listener.changed();
    area.focus();
  }

  /**
   * A message in a text area, in place of its text.
   * @param {Part} part
   * @param {HTMLElement} turn
   */
  function edit(part, turn) {
    editing = part;
    const draft = h('textarea', { rows: 2, value: part.shown, 'aria-label': 'Edited message' });
    const done = () => {
      editing = null;
      if (!draft.value.trim() || draft.value === part.shown) return session.listener.changed();
      if (part.written) return run(() => amend(part, draft.value));
      return part.role === 'system' ? renamed(draft.value) : run(() => answer(part.parent, draft.value));
    };
    const leave = () => {
      editing = null;
      session.listener.changed();
    };
    draft.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') leave();
      else if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        done();
      }
    });
    const buttons = h('div', { class: 'row buttons' }, h('button', { type: 'button', class: 'first', onclick: done }, part.written ? 'Go on from here' : 'Send again'), h('button', { type: 'button', onclick: leave }, 'Cancel'));
    drafted = [draft, buttons];
    fill(turn, drafted);
    draft.focus();
  }

  /**
   * An answer of which a person has changed the text: it goes on behind it. Tokens before the change stay as they are.
   * @param {Part} part
   * @param {string} text
   */
  async function amend(part, text) {
    let [kept, length] = [0, 0];
    while (kept < part.tokens.length && text.startsWith(part.tokens[kept].piece, length)) length += part.tokens[kept++].piece.length;
    while (kept && part.tokens[kept - 1].piece === '') kept--; // a part of a character that may have gone
    const rest = text.slice(length);
    /** @type {number[]} */
    const ids = rest ? (await post('/tokenize', { model: session.model, content: rest }, tools.signal)).tokens : [];
    const tokens = [...part.tokens.slice(0, kept), ...ids.map(unscored)];
    return session.generate(new Part(part.parent, part.role, { tokens, seed: part.seed, note: 'edited' }));
  }

  /**
   * Another system message: the first message is asked again below it.
   * @param {string} text
   */
  function renamed(text) {
    const first = path(session.current)[1];
    system.value = text;
    save(begun, text);
    const root = head();
    if (first && root) run(() => answer(root, first.shown));
  }

  return {
    element,
    /**
     * The text area and buttons of a message that is being edited, so that nothing that happens meanwhile takes them away.
     * @param {Part} part
     */
    draft: (part) => (part === editing ? drafted : null),
    /** @param {Part} part */
    actions(part) {
      if (part.running || part === editing) return [];
      const button = h('button', { type: 'button', class: 'plain small', onclick: () => {
        const turn = button.closest('.turn')?.querySelector('.tokens');
        if (turn) edit(part, /** @type {HTMLElement} */ (turn));
      } }, 'Edit');
      return [button];
    },
    update() {
      const running = session.running !== null;
      const written = !running && session.answer !== null;
      enable([[send, !running], [stop, running], [more, written && session.continues], [again, written], [fresh, session.current !== null]]);
    },
    begin() {},
    follow() {},
    end() {},
  };
}
