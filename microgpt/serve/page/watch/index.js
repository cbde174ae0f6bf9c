// @ts-check
// Watch: the curves of one or several runs as they are trained, with losses to beat, samples and differences.

import { ApiError, aborted, get, post } from '../api.js';
import { Chart } from '../chart.js';
import { enable, fill, h } from '../dom.js';
import { compact } from '../format.js';
import { region } from '../region.js';
import { Curves, rates, smooth } from './curves.js';
import { MOST_RUNS, chooser } from './chooser.js';
import { follow } from './follow.js';
import { controls, trainer } from './train.js';
import { configurations, duration, figures, loss, samples, status } from './panels.js';

const POINTS = 1500; // of a curve that is asked for
const LIST_EVERY = 5000; // milliseconds between two looks for new runs

let log = false; // whether losses are drawn on a logarithmic scale; kept while the page is open

/** @type {import('../types.js').View['show']} */
export async function show(main, context) {
  const aborter = new AbortController();
  if (!context.run) return waiting(main, context, aborter);
  const names = context.names.slice(0, MOST_RUNS);
  const all = names.map((name) => new Curves(name));
  /** @type {import('../chart.js').Range} */
  let range = null;
  /** @type {Map<string, import('./curves.js').Series>} */
  let detail = new Map(); // of the range, finer than the whole curves
  /** @type {import('../chart.js').Level[]} */
  let levels = [];
  let due = 0; // the frame in which all is drawn

  const zoom = (/** @type {import('../chart.js').Range} */ wanted) => {
    const last = Math.max(1, ...all.map((curves) => Number(curves.series.training.step.at(-1) ?? 1)));
    const [low, high] = wanted ?? [0, last];
    const width = Math.max(4, high - low);
    const from = Math.max(0, Math.min(low, last - width));
    range = wanted && width < last ? [Math.round(from), Math.round(from + width)] : null;
    detail = new Map();
    enable([[whole, range !== null], [tail, true]]);
    paint(); // at once: the next key counts from here
    if (range) refine(range);
  };
  const point = (/** @type {number | null} */ x) => {
    for (const chart of charts) if (chart.cursor !== x) ((chart.cursor = x), chart.drawCursor());
  };
  const charts = [
    new Chart({ label: 'Loss in nats per token', format: loss, tick: compact, zoom, point }),
    new Chart({ label: 'Learning rate', format: compact, zoom, point }),
    new Chart({ label: 'Gradient norm', format: compact, zoom, point }),
    new Chart({ label: 'Tokens per second', format: compact, zoom, point }),
  ];
  const [losses, learning, norms, speed] = charts;
  losses.log = log;

  const notice = h('p', { class: 'error', role: 'status', hidden: true });
  const cards = h('div', { class: 'cards' });
  const beat = h('p', { class: 'small soft beat' });
  const scale = h('button', { 'aria-pressed': log, onclick: rescale }, 'Logarithmic');
  const whole = h('button', { disabled: true, onclick: () => zoom(null) }, 'Whole run');
  const tail = h('button', { onclick: lastPart }, 'Last fifth');
  const sampleCard = h('section', { class: 'card', 'aria-label': 'Samples' });
  const table = h('details', { class: 'card', ontoggle: () => draw() }, h('summary', null, 'The curves as a table'), region('Table of the curves'));
  const settings = h('details', { class: 'card', open: names.length > 1 }, h('summary', null, names.length > 1 ? 'How their configurations differ' : 'Configuration'), region('Configurations'));
  const choose = chooser(names, (wanted) => context.go(`#/watch/${wanted.map(encodeURIComponent).join(',')}`));
  choose.show(context.runs);
  const ofNorms = h('section', { class: 'card', 'aria-labelledby': 'of-norm' }, h('h2', { id: 'of-norm' }, 'Gradient norm ', h('span', { class: 'soft' }, 'before clipping')), norms.element);
  const control = controls(names, context, aborter.signal);
  const train = trainer(context, aborter.signal);
  const help = 'Drag over a chart to zoom, double-click for all. By keyboard: arrows read the values, + and − zoom, Shift with arrows moves, 0 shows all.';
  fill(
    main,
    h('h1', { class: 'unseen' }, `Watch ${names.join(', ')}`),
    notice,
    h(
      'div',
      { class: 'columns' },
      h(
        'div',
        { class: 'curves' },
        h('section', { class: 'card', 'aria-labelledby': 'of-loss' }, h('div', { class: 'row head' }, h('h2', { id: 'of-loss' }, 'Loss ', h('span', { class: 'soft' }, 'nats per token')), h('div', { class: 'row buttons' }, scale, tail, whole)), losses.element, beat, h('p', { class: 'small soft' }, help)),
        h('div', { class: 'pair' }, h('section', { class: 'card', 'aria-labelledby': 'of-rate' }, h('h2', { id: 'of-rate' }, 'Learning rate'), learning.element), ofNorms, h('section', { class: 'card', 'aria-labelledby': 'of-speed' }, h('h2', { id: 'of-speed' }, 'Tokens per second'), speed.element)),
        table,
        settings,
      ),
      h('div', { class: 'side' }, cards, control.element, choose.element, train, sampleCard),
    ),
  );

  choose.resume();

  function rescale() {
    log = !log;
    losses.log = log;
    scale.setAttribute('aria-pressed', String(log));
    draw();
  }

  function lastPart() {
    const last = Math.max(1, ...all.map((curves) => Number(curves.series.training.step.at(-1) ?? 1)));
    zoom([last * 0.8, last]);
  }

  /** @param {[number, number]} wanted */
  async function refine(wanted) {
    try {
      const found = await Promise.all(names.map((run) => post('/api/metrics', { run, first: Math.max(0, wanted[0] - 1), last: wanted[1] + 1, points: POINTS }, aborter.signal)));
      if (range !== wanted) return;
      detail = new Map(names.map((name, i) => [name, found[i]]));
      draw();
    } catch (error) {
      if (!aborted(error) && !(error instanceof ApiError)) throw error; // the whole curves stay
    }
  }

  function draw() {
    due ||= requestAnimationFrame(() => {
      due = 0;
      paint();
    });
  }

  function paint() {
    /** @type {import('../chart.js').Line[][]} */
    const lines = [[], [], [], []];
    all.forEach((curves, i) => {
      const { training, held_out } = detail.get(curves.name) ?? curves.series;
      const x = /** @type {number[]} */ (training.step);
      const base = { colour: i + 1, x };
      const of = names.length > 1 ? `${curves.name} ` : '';
      const name = names.length > 1 ? curves.name : '';
      if (x.length) {
        lines[0].push({ ...base, name: `${of}training`, y: smooth(x, training.mean), faint: names.length > 1 ? undefined : training.loss });
        lines[1].push({ ...base, name: name || 'rate', y: training.lr });
        const norm = training.grad_norm ?? [];
        if (norm.some((value) => value !== null)) lines[2].push({ ...base, name: name || 'norm', y: smooth(x, norm), faint: names.length > 1 ? undefined : norm });
        lines[3].push({ ...base, name: name || 'tokens/s', y: rates(training) });
      }
      if (held_out.step.length) lines[0].push({ ...base, colour: names.length > 1 ? i + 1 : 2, dashed: true, name: `${of}held-out`, x: /** @type {number[]} */ (held_out.step), y: held_out.val_loss });
    });
    charts.forEach((chart, i) => {
      chart.lines = lines[i];
      chart.range = range;
      chart.marks = i ? [] : (all[0].facts?.checkpoints ?? []).map((kept) => ({ x: kept.step, best: kept.best }));
      chart.levels = i ? [] : levels;
      chart.draw();
    });
    ofNorms.hidden = !lines[2].length; // of a run from before they were kept
    fill(cards, all.map((curves, i) => status(curves, i + 1)));
    for (const curves of all) if (curves.facts) control.show(curves.name, curves.facts.state);
    if (table.open) fill(/** @type {Element} */ (table.lastElementChild), figures(all));
    const left = all[0].left;
    document.title = `${left === null ? '' : `${duration(left)} left · `}Watch · ${names.join(', ')} · microgpt`;
  }

  async function reference() {
    const found = await get(`/api/runs/${encodeURIComponent(names[0])}/baselines`, aborter.signal);
    const ln = found.uniform ?? null;
    levels = [];
    if (ln !== null) levels.push({ name: 'uniform (ln V)', y: ln });
    if (found.unigram !== null) levels.push({ name: 'unigram', y: found.unigram }, { name: 'bigram', y: found.bigram });
    beat.textContent =
      found.unigram === null
        ? `The losses of a unigram and a bigram model, to beat, are not drawn: ${found.reason}.`
        : `Lines to beat${names.length > 1 ? ` (of the text of ${names[0]})` : ''}: guessing ${loss(ln)}, unigram ${loss(found.unigram)}, bigram ${loss(found.bigram)}, fitted on the training part, measured on the ${found.on} part. ▴ marks kept checkpoints.`;
    draw();
    return found.unigram !== null;
  }

  async function configured() {
    const details = await Promise.all(names.map((name) => get(`/api/runs/${encodeURIComponent(name)}`, aborter.signal)));
    fill(/** @type {Element} */ (settings.lastElementChild), configurations(details));
  }

  let known = false; // whether the losses to beat are
  const again = async () => {
    try {
      if (!known && all[0].facts) known = await reference();
      choose.show((await get('/api/runs', aborter.signal)).runs);
    } catch (error) {
      if (!aborted(error) && !(error instanceof ApiError)) throw error; // the stream tells what is wrong
    }
  };
  const clock = setInterval(again, LIST_EVERY);
  const configuring = () => configured().catch((error) => !aborted(error) && (notice.textContent = String(error.message)));

  let end = start();
  function start() {
    return follow(names, POINTS, {
      open() {
        if (!notice.hidden) context.say('The connection is back.');
        notice.hidden = true;
        configuring();
        again();
      },
      broken(message) {
        if (notice.hidden) context.say(message);
        notice.textContent = `${message} Trying again…`;
        notice.hidden = false;
      },
      event(event) {
        const curves = all.find((each) => each.name === event.run);
        if (!curves) return;
        const before = curves.facts?.state;
        const model = curves.facts?.model;
        curves.take(event);
        if (event.kind === 'facts' && before && before !== curves.facts?.state) context.say(`${curves.name}: ${curves.facts?.state}`);
        if (event.kind === 'facts' && !known && curves === all[0] && model !== curves.facts?.model) again();
        if (event.kind === 'samples') samples(sampleCard, all);
        if (curves.full) {
          end();
          end = start();
        }
        draw();
      },
    });
  }
  samples(sampleCard, all);
  draw();

  const leave = () => {
    aborter.abort();
    end();
    clearInterval(clock);
    cancelAnimationFrame(due);
    charts.forEach((chart) => chart.end());
  };
  return Object.assign(leave, { follow: () => {} });
}

/**
 * There is no run yet: say how to begin, and wait for one.
 * @param {HTMLElement} main
 * @param {import('../types.js').Context} context
 * @param {AbortController} aborter
 */
function waiting(main, context, aborter) {
  const train = trainer(context, aborter.signal, true);
  fill(main, h('h1', null, 'Watch'), h('p', null, 'There is no run here yet. Train one here, or in the folder that is served: ', h('code', null, 'microgpt train names')), h('p', { class: 'soft', role: 'status' }, 'Its curves appear here as soon as it begins.'), train);
  const clock = setInterval(async () => {
    const found = await get('/api/runs', aborter.signal).catch(() => ({ runs: [] }));
    if (found.runs.length) context.go(`#/watch/${encodeURIComponent(found.runs[0].name)}`);
  }, 1000);
  return () => {
    aborter.abort();
    clearInterval(clock);
  };
}
