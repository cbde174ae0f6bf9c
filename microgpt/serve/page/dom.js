// @ts-check
// Elements from tags, attributes and children. Text only ever becomes text nodes, so no text becomes markup.

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, any>} Attributes */

/**
 * An HTML element: `h('button', {class: 'first', onclick: stop}, 'Stop')`. Attributes that are null, undefined or false
 * are left out, true is the empty attribute; `on…` is a listener; `style` and `dataset` are objects.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes | null} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/**
 * The same for SVG.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes | null} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Attributes | null | undefined} attributes
 * @param {(Child | Child[])[]} children
 * @returns {E}
 */
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) set(element, name, value);
  element.append(...nodes(children));
  return element;
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {any} value
 */
function set(element, name, value) {
  if (value === null || value === undefined) return;
  if (name.startsWith('aria-') || name === 'spellcheck') return element.setAttribute(name, String(value)); // false counts
  if (value === false) return;
  if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
  else if (name === 'style') setStyle(/** @type {HTMLElement} */ (element), value);
  else if (name === 'dataset') Object.assign(/** @type {HTMLElement} */ (element).dataset, value);
  else if (name === 'value') /** @type {HTMLInputElement} */ (element).value = value;
  else element.setAttribute(name, value === true ? '' : String(value));
}

/**
 * @param {HTMLElement | SVGElement} element
 * @param {Record<string, string | number>} style  Properties, custom ones too: {'--share': 0.3, width: '2rem'}.
 */
export function setStyle(element, style) {
  for (const [name, value] of Object.entries(style)) {
    element.style.setProperty(name.replace(/[A-Z]/g, (c) => '-' + c.toLowerCase()), String(value));
  }
}

/**
 * @param {(Child | Child[])[]} children
 * @returns {(Node | string)[]}
 */
function nodes(children) {
  const kept = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  return kept.map((child) => (child instanceof Node ? child : String(child)));
}

/**
 * Put children in place of an element's content.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/**
 * Switch buttons on and off; one that has the focus and is switched off gives it to another one.
 * @param {[HTMLButtonElement, boolean][]} buttons  Each with whether it is on.
 */
export function enable(buttons) {
  const held = document.activeElement;
  for (const [button, on] of buttons) button.disabled = !on;
  if (buttons.some(([button, on]) => button === held && !on)) buttons.find(([, on]) => on)?.[0].focus();
}

const FOCUSABLE = 'a[href], button, input, select, textarea, summary, [tabindex]';

/**
 * The same as `fill`, where something within the element may have the focus: the one of the same place takes it, or
 * the last one where there are fewer now; where there are none, the element itself.
 * @param {HTMLElement} element
 * @param {...(Child | Child[])} children
 */
export function refill(element, ...children) {
  const all = () => /** @type {HTMLElement[]} */ ([...element.querySelectorAll(FOCUSABLE)]);
  const held = document.activeElement;
  const at = held === element ? -1 : all().indexOf(/** @type {HTMLElement} */ (held));
  fill(element, ...children);
  if (at < 0) return;
  const now = all();
  if (!now.length) element.tabIndex = -1;
  (now[Math.min(at, now.length - 1)] ?? element).focus({ preventScroll: true });
}

/**
 * The element with an id, which the page has.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * Arrow keys, Home and End within a group whose items take the focus in turn: one of them has tabindex 0.
 * Call it again after the items have changed.
 * @param {HTMLElement} group
 * @param {string} items  A selector of the items.
 * @param {{vertical?: boolean}} [options]  Whether up and down move, too, instead of left and right.
 */
export function rove(group, items, options = {}) {
  const [back, on] = options.vertical ? ['ArrowUp', 'ArrowDown'] : ['ArrowLeft', 'ArrowRight'];
  /** @returns {HTMLElement[]} */
  const all = () => [...group.querySelectorAll(/** @type {'button'} */ (items))];
  const found = all();
  const current = found.find((item) => item.tabIndex === 0) ?? found[0];
  for (const item of found) item.tabIndex = item === current ? 0 : -1;
  if (group.dataset.roves) return;
  group.dataset.roves = 'true';
  group.addEventListener('focusin', (event) => {
    const now = all();
    if (now.includes(/** @type {HTMLElement} */ (event.target))) {
      for (const item of now) item.tabIndex = item === event.target ? 0 : -1;
    }
  });
  group.addEventListener('keydown', (event) => {
    const now = all();
    const at = now.indexOf(/** @type {HTMLElement} */ (event.target));
    const to = { [back]: at - 1, [on]: at + 1, Home: 0, End: now.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    now[Math.max(0, Math.min(now.length - 1, to))].focus();
  });
}
