// @ts-check
// The view Step through: one training step on real numbers, operation by operation, beside the code that computes it.

import { ApiError, aborted, guarded, post } from '../api.js';
import { fill, h, rove } from '../dom.js';
import { short } from '../format.js';
import { gridsOf } from './arrays.js';
import { differPanel } from './differ.js';
import { numberOf, updateOf } from './number.js';
import { Step } from './numbers.js';
import { SourcePanel } from './source.js';
import { find, nextLayer, stagesOf } from './stages.js';
import { UPDATE, backwardOf, wordsOf } from './words.js';

/** @typedef {import('./numbers.js').Place} Place */
/** @typedef {import('./stages.js').Stage} Stage */

/** @type {import('../types.js').View['show']} */
export async function show(main, context) {
  const ending = new AbortController();
  const view = new Walk(main, context, ending.signal);
  await view.load(null);
  /** @param {import('../types.js').Context} next  Another checkpoint: the same place in its step. */
  const follow = (next) => {
    view.context = next;
    view.load(view.text);
  };
  return Object.assign(() => ending.abort(), { follow });
}

/** Where the learner is in a step: a stage, a position, a number. */
class Walk {
  /**
   * @param {HTMLElement} main
   * @param {import('../types.js').Context} context
   * @param {AbortSignal} signal
   */
  constructor(main, context, signal) {
    this.context = context;
    this.signal = signal;
    /** @type {string | null} */
    this.text = null;
    /** @type {Step | null} */
    this.step = null;
    /** @type {SourcePanel | null} */
    this.source = null;
    /** @type {Stage[]} */
    this.stages = [];
    this.at = 0;
    this.asked = 0; // how many steps were asked for
    this.position = 2; // where attention has something to choose from
    /** @type {Place} */
    this.place = { array: '', index: 0 };

    this.document = h('input', { type: 'text', id: 'step-text', autocomplete: 'off', spellcheck: false, maxlength: 10000 });
    this.notes = h('p', { class: 'small soft' });
    this.error = h('p', { class: 'error', role: 'alert' });
    this.tokens = h('div', { class: 'tokens', role: 'radiogroup', 'aria-label': 'Position' });
    this.stage = h('select', { 'aria-label': 'Operation', onchange: () => this.go(Number(this.stage.value)) });
    this.title = h('h2', { id: 'step-title' });
    this.says = h('p', { class: 'says' });
    this.grids = h('div', { class: 'grids' });
    this.number = h('section', { class: 'card number-panel', tabindex: -1, 'aria-label': 'The chosen number' });
    this.sourceBox = h('div');
    this.buttons = this.controls();
    this.body = h(
      'div',
      { class: 'walk', onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event) },
      this.tokens,
      this.buttons,
      h(
        'div',
        { class: 'panels' },
        this.sourceBox,
        h('section', { class: 'card arrays', 'aria-labelledby': 'step-title' }, this.title, this.says, this.grids),
      ),
      this.number,
    );
    /** @param {Event} event */
    const submit = (event) => {
      event.preventDefault();
      this.load(this.document.value || null);
    };
    fill(
      main,
      h('h1', { class: 'unseen' }, 'Step through'),
      h(
        'form',
        { class: 'row document', onsubmit: submit },
        h('label', { class: 'name', for: 'step-text' }, 'Document'),
        this.document,
        h('button', { type: 'submit' }, 'Take this step'),
        h('button', { type: 'button', class: 'plain', onclick: () => this.load(null) }, 'The run’s own'),
      ),
      this.error,
      this.notes,
      this.body,
      differPanel(context, () => ({ model: this.context.model, text: this.text }), signal),
    );
  }

  controls() {
    /** @param {string} text @param {string} key @param {() => void} go @param {string} [kind] */
    const button = (text, key, go, kind = '') =>
      h('button', { type: 'button', class: kind, 'aria-keyshortcuts': key, title: `key ${key}`, onclick: go }, text);
    return h(
      'div',
      { class: 'row controls', role: 'group', 'aria-label': 'Walk' },
      button('Previous', 'p', () => this.go(this.at - 1)),
      button('Next', 'n', () => this.go(this.at + 1), 'first'),
      button('Next layer', 'l', () => this.go(nextLayer(this.stages, this.at))),
      button('Forward', 'f', () => this.go(find(this.stages, 'forward'))),
      button('Backward', 'b', () => this.go(find(this.stages, 'backward'))),
      button('Adam', 'u', () => this.go(find(this.stages, 'update'))),
      h('label', { class: 'field where' }, this.stage),
    );
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.altKey || event.metaKey || target.closest('input, select, textarea')) return;
    const button = this.buttons.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]`);
    if (button) /** @type {HTMLButtonElement} */ (button).click();
  }

  /**
   * Take the step of a document; null for the one that the run trains on next.
   * @param {string | null} text
   */
  async load(text) {
    const model = this.context.model;
    const number = ++this.asked; // an answer that comes after the next question is dropped
    const written = this.document.value;
    this.error.textContent = '';
    this.body.hidden = !this.step;
    if (!model) {
      this.error.textContent = 'There is no run yet: microgpt train names makes one.';
      return;
    }
    try {
      const [answer, code] = await Promise.all([
        post('/api/step', { model, text }, this.signal),
        this.source ? null : post('/api/step/sources', { model }, this.signal),
      ]);
      if (code && !this.source) {
        this.source = new SourcePanel(code.sources);
        fill(this.sourceBox, this.source.element);
      }
      if (number !== this.asked) return;
      this.text = text;
      this.step = new Step(answer);
      this.begin(this.step);
      if (this.document.value === written) this.document.value = this.row; // else somebody types meanwhile
    } catch (error) {
      if (aborted(error) || number !== this.asked) return;
      if (!(error instanceof ApiError)) throw error;
      this.error.textContent = error.message;
      if (error.status === 409 && text === null && !this.step) await this.loadSample(error.message);
    }
  }

  /**
   * A run whose text is not here is shown with a document that its model makes up.
   * @param {string} reason
   */
  async loadSample(reason) {
    const body = { model: this.context.model, prompt: '', max_tokens: 12, temperature: 0.5, seed: 42 };
    /** @type {{text: string}[]} */
    let choices = [];
    if (!(await guarded(this.error, async () => void ({ choices } = await post('/v1/completions', body, this.signal))))) return;
    const text = choices[0].text.trim();
    if (text) await this.load(text);
    else this.error.textContent = reason;
    if (this.step) this.error.textContent = `${reason}. The model made this one up.`;
  }

  /** The document as it is trained on: without special tokens, and cut to the context. */
  get row() {
    const { step } = this;
    if (!step) return '';
    const texts = step.answer.tokens.map((_, i) => step.token(i));
    return texts.filter((text) => !/^<\w+>$/.test(text)).join('');
  }

  /** @param {Step} step */
  begin(step) {
    const { answer } = step;
    this.stages = stagesOf(step);
    this.position = Math.min(this.position, step.positions - 1);
    this.notes.textContent = [
      `Step ${(answer.step + 1).toLocaleString('en')} of ${answer.steps.toLocaleString('en')}: learning rate ${short(answer.lr)}, norm of the gradient ${short(answer.norm)}.`,
      ...answer.notes.map((note) => note[0].toUpperCase() + note.slice(1) + '.'),
    ].join(' ');
    fill(
      this.tokens,
      Array.from({ length: step.positions }, (_, i) =>
        h('button', { type: 'button', role: 'radio', tabindex: i === this.position ? 0 : -1, onclick: () => this.stand(i) },
          h('span', { class: 'mono' }, step.token(i)), h('span', { class: 'small soft' }, ` → ${step.token(i + 1)}`)),
      ),
    );
    rove(this.tokens, 'button');
    /** @type {Record<string, string>} */
    const phases = { forward: 'Forward', backward: 'Backward', update: 'Adam' };
    fill(
      this.stage,
      Object.keys(phases).map((phase) =>
        h('optgroup', { label: phases[phase] }, this.stages.map((stage, i) =>
          stage.phase === phase
            ? h('option', { value: String(i) }, `${stage.layer === null || phase === 'update' ? '' : `layer ${stage.layer}: `}${stage.title}`)
            : null)),
      ),
    );
    this.body.hidden = false;
    this.go(Math.min(this.at, this.stages.length - 1));
  }

  /**
   * Go to a stage, with a number of its own or the one that stands where the last one stood.
   * @param {number} at
   * @param {number} [index]
   */
  go(at, index) {
    if (!this.step || at < 0 || at >= this.stages.length) return;
    this.at = at;
    const { array } = this.stages[at];
    this.choose({ array, index: index ?? this.standing(this.step, array) });
    this.source?.show(this.stages[at]);
    this.context.say(`${this.stages[at].phase}: ${this.stages[at].title}`);
  }

  /**
   * The number of an array at the chosen position, in the same channel as the last one.
   * @param {Step} step
   * @param {string} array
   */
  standing(step, array) {
    const shape = step.array(array).shape;
    const axes = step.axes(array);
    const last = this.place.array ? step.indices(this.place.array, this.place.index).at(-1) ?? 0 : 0;
    let index = 0;
    shape.forEach((size, k) => {
      const wanted = axes[k] === 'position' ? this.position : axes[k] === 'head' ? 0 : axes[k] === 'key' ? this.position : last;
      index = index * size + Math.min(wanted, size - 1);
    });
    return index;
  }

  /** @param {number} position */
  stand(position) {
    this.position = position;
    this.go(this.at);
  }

  /**
   * Choose a number of what is shown.
   * @param {Place} place
   */
  choose(place) {
    const { step } = this;
    if (!step) return;
    this.place = place;
    const axes = step.axes(place.array);
    const row = axes.indexOf('position');
    if (row >= 0 && place.array !== 'wpe') this.position = step.indices(place.array, place.index)[row];
    this.draw(step);
  }

  /**
   * Go to where a number is computed, or to what it is for in the backward pass.
   * @param {Place} place
   */
  follow(place) {
    const { phase } = this.stages[this.at];
    const at = find(this.stages, phase === 'update' ? 'forward' : phase, place.array);
    if (at >= 0) this.go(at, place.index);
    else if (this.step) this.choose(place);
    this.number.querySelector('h2')?.scrollIntoView({ block: 'nearest' });
  }

  /** @param {Step} step */
  draw(step) {
    const stage = this.stages[this.at];
    const { operation, phase } = stage;
    this.stage.value = String(this.at);
    for (const [i, token] of [...this.tokens.children].entries()) {
      token.setAttribute('aria-checked', String(i === this.position));
    }
    const layer = stage.layer === null ? '' : `layer ${stage.layer}, `;
    this.title.textContent = `${this.at + 1} of ${this.stages.length}: ${layer}${stage.title}`;
    this.says.textContent =
      phase === 'update' ? UPDATE : operation ? (phase === 'forward' ? wordsOf(operation.role).says : backwardOf(operation.kind)) : '';
    const focused = document.activeElement instanceof HTMLElement && this.grids.contains(document.activeElement);
    fill(
      this.grids,
      gridsOf({
        step,
        stage,
        place: this.place,
        position: this.position,
        choose: (place) => this.choose(place),
        follow: (place) => this.follow(place),
      }),
    );
    if (focused) /** @type {HTMLElement | null} */ (this.grids.querySelector('td.chosen'))?.focus();
    const within = this.number.contains(document.activeElement);
    const update = (/** @type {Place} */ place) => this.go(find(this.stages, 'update', place.array), place.index);
    fill(
      this.number,
      phase === 'update' ? updateOf(step, this.place) : numberOf(step, this.place, (place) => this.follow(place), update),
    );
    if (within) this.number.focus({ preventScroll: true }); // it shows another number now
  }
}
