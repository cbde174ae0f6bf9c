// @ts-check
// The router: an address such as #/play/names?at=500 → the view, and the bar that goes with it.

import { ApiError, aborted, get } from './api.js';
import { byId, fill, h } from './dom.js';
import { showScrubber } from './scrubber.js';

/** @typedef {import('./types.js').Context} Context */
/** @typedef {import('./types.js').Run} Run */

/** @typedef {Record<string, {title: string, load: () => Promise<import('./types.js').View>}>} Views */

/** @type {Views} */
let views = {}; // by name; the first one is shown where none is named
const main = byId('main');
const picker = /** @type {HTMLSelectElement} */ (byId('run'));
/** @type {import('./types.js').Runs} */
let known = { runs: [], may_train: false };
/** @type {import('./types.js').End} */
let end = () => {};
/** @type {{hash: string, context: Context} | null} */
let current = null; // the view that is shown, by its address without the checkpoint
let shown = 0; // how often a view was shown, by which one that comes too late is known
let first = true;

/**
 * @param {string} hash
 * @returns {{view: string, names: string[], at: number | null}}
 */
function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view, names = ''] = path.split('/');
  const at = new URLSearchParams(query).get('at');
  return {
    view: view in views ? view : Object.keys(views)[0],
    names: names.split(',').filter(Boolean).map(decoded),
    at: at !== null && /^\d{1,9}$/.test(at) ? Number(at) : null,
  };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * The address of a view.
 * @param {string} view
 * @param {string[]} names
 * @param {number | null} [at]
 */
function address(view, names, at = null) {
  return `#/${view}/${names.map(encodeURIComponent).join(',')}${at === null ? '' : `?at=${at}`}`;
}

/** @param {string} text */
function say(text) {
  byId('said').textContent = text;
}

let opening = new AbortController(); // of the view that is being opened

async function show() {
  const number = ++shown;
  const { view, names, at } = parse(location.hash);
  if (current?.hash === address(view, names) && end.follow) {
    current.context = standing(current.context, at);
    showBar(view, current.context.names, at);
    end.follow(current.context);
    return;
  }
  end();
  end = () => {};
  current = null;
  opening.abort(); // a view that is still loading
  opening = new AbortController();
  const { signal } = opening;
  try {
    known = await get('/api/runs');
  } catch (error) {
    if (number === shown) fail(error);
    return;
  }
  if (number !== shown) return;
  const named = names.filter((name) => known.runs.some((run) => run.name === name));
  const missing = names.filter((name) => !named.includes(name));
  if (!named.length && known.runs.length) named.push(known.runs[0].name);
  showBar(view, named, at);
  if (missing.length) say(`There is no run ${missing.join(', ')} here.`);
  /** @type {Context} */
  const found = {
    run: named[0] ?? '',
    names: named,
    at: null,
    model: '',
    runs: known.runs,
    mayTrain: known.may_train,
    go: (hash) => (location.hash = hash),
    say,
    signal,
  };
  const context = standing(found, at);
  try {
    const loaded = await views[view].load();
    if (number !== shown) return;
    fill(main);
    main.className = view;
    const leave = await loaded.show(main, context);
    if (number === shown) {
      end = leave;
      current = { hash: address(view, named), context };
    } else leave();
  } catch (error) {
    if (number === shown && !aborted(error)) fail(error);
  }
  const held = [main, byId('scrubber')].some((part) => part.contains(document.activeElement)); // by the view itself
  if (!first && !held && number === shown) main.focus({ preventScroll: true });
  first = false;
}

/**
 * A view's context at another checkpoint.
 * @param {Context} context
 * @param {number | null} at
 * @returns {Context}
 */
function standing(context, at) {
  return { ...context, at, model: at === null ? context.run : `${context.run}@${at}` };
}

/**
 * The run picker and the links, which keep the run and its checkpoint.
 * @param {string} view
 * @param {string[]} names
 * @param {number | null} at
 */
function showBar(view, names, at) {
  document.title = `${views[view].title}${names.length ? ` · ${names.join(', ')}` : ''} · microgpt`;
  fill(
    picker,
    known.runs.map((run) => h('option', { value: run.name, selected: run.name === names[0] }, run.name)),
    known.runs.length ? null : h('option', null, 'no runs yet'),
  );
  picker.disabled = known.runs.length === 0;
  showMarks(view, names, at);
  for (const link of document.querySelectorAll('nav a')) {
    const target = /** @type {HTMLElement} */ (link).dataset.view ?? 'play';
    link.setAttribute('href', address(target, target === 'watch' ? names : names.slice(0, 1), at));
    if (target === view) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

/**
 * The checkpoints of the run; a step that is chosen takes the place of the address before it.
 * @param {string} view
 * @param {string[]} names
 * @param {number | null} at
 */
function showMarks(view, names, at) {
  const run = known.runs.find((each) => each.name === names[0]);
  showScrubber(byId('scrubber'), run, at, (step) => location.replace(address(view, names, step)));
}

/** While a run is being trained, its new checkpoints come to the scrubber. */
async function refresh() {
  const shownNow = current;
  const run = known.runs.find((each) => each.name === shownNow?.context.run);
  if (!shownNow || run?.state !== 'running' || document.hidden) return;
  const answer = await get('/api/runs').catch(() => null); // a view that needs the service says so itself
  if (!answer || shownNow !== current) return;
  known = answer;
  shownNow.context = { ...shownNow.context, runs: known.runs };
  const { view, at } = parse(location.hash);
  showMarks(view, shownNow.context.names, at);
}

/** @param {unknown} error */
function fail(error) {
  if (!(error instanceof ApiError)) console.error(error);
  const text = error instanceof ApiError ? error.message : `This view failed: ${error}`;
  fill(main, h('p', { class: 'error', role: 'alert' }, text), h('button', { onclick: show }, 'Try again'));
}

/**
 * Show the view of the address, and follow it from now on.
 * @param {Views} given
 */
export function start(given) {
  views = given;
  picker.addEventListener('change', () => {
    location.hash = address(parse(location.hash).view, [picker.value]);
  });
  addEventListener('hashchange', show);
  setInterval(refresh, 3000);
  document.querySelector('.skip')?.addEventListener('click', (event) => {
    event.preventDefault(); // the hash is the router's
    main.focus();
  });
  show();
}
