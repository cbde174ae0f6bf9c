// @ts-check
// A chart of lines over steps, in SVG: drag to zoom, arrow keys to read values, + and − to zoom, 0 for all.

import { fill, h, svg } from './dom.js';

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {number} colour  1 to 6, as --line-1 in page.css.
 * @property {number[]} x  Ascending.
 * @property {(number | null)[]} y  Drawn; null is a gap.
 * @property {(number | null)[]} [faint]  Drawn behind it: the values that y is the average of.
 * @property {boolean} [dashed]
 */

/** @typedef {{name: string, y: number}} Level  A horizontal line, such as a loss to beat. */
/** @typedef {{x: number, best: boolean}} Mark  A mark on the axis, such as a kept checkpoint. */
/** @typedef {[number, number] | null} Range  Of x; null is all. */

/**
 * @typedef {object} Settings
 * @property {string} label  Its content, for screen readers.
 * @property {(value: number) => string} format  Of values.
 * @property {(value: number) => string} [tick]  Of the axis, if otherwise.
 * @property {(range: Range) => void} zoom  The reader asks for a range.
 * @property {(x: number | null) => void} [point]  The cursor has moved.
 */

const HEIGHT = 230;
const OUT = 0.03; // the share of single values, at either end, that may lie outside of the picture
const SIDE = { left: 58, right: 14, top: 10, bottom: 24 };

export class Chart {
  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    /** @type {Line[]} */
    this.lines = [];
    /** @type {Level[]} */
    this.levels = [];
    /** @type {Mark[]} */
    this.marks = [];
    /** @type {Range} */
    this.range = null;
    this.log = false;
    /** @type {number | null} */
    this.cursor = null;
    /** @type {number | null} */
    this.from = null; // where a drag began, in pixels
    this.width = 600;
    this.x = (/** @type {number} */ x) => x; // to pixels; `draw` sets both
    this.y = (/** @type {number} */ y) => y;
    this.back = svg('g', { class: 'back' });
    this.front = svg('g', { class: 'front' });
    this.picture = svg(
      'svg',
      { class: 'picture', tabindex: 0, role: 'slider', 'aria-label': `${settings.label}: step`, 'aria-valuenow': 0, 'aria-valuetext': 'no values yet' },
      this.back,
      this.front,
    );
    this.readout = h('p', { class: 'readout small number', 'aria-hidden': 'true' });
    this.element = h('div', { class: 'chart' }, this.readout, this.picture);
    this.picture.addEventListener('pointermove', (event) => this.move(event));
    this.picture.addEventListener('pointerleave', () => this.from === null && this.point(null));
    this.picture.addEventListener('pointerdown', (event) => {
      if (event.button || event.pointerType === 'touch') return;
      this.from = this.at(event);
      this.picture.setPointerCapture(event.pointerId);
    });
    this.picture.addEventListener('pointerup', (event) => this.release(event));
    this.picture.addEventListener('dblclick', () => settings.zoom(null));
    this.picture.addEventListener('keydown', (event) => this.key(event));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
  }

  end() {
    this.observer.disconnect();
  }

  /** The range of x that is shown. @returns {[number, number]} */
  bounds() {
    if (this.range) return this.range;
    const drawn = this.lines.filter((line) => line.x.length);
    const low = Math.min(...drawn.map((line) => line.x[0]));
    const high = Math.max(...drawn.map((line) => line.x[line.x.length - 1]));
    return drawn.length && high > low ? [low, high] : [0, drawn.length ? Math.max(1, high) : 1];
  }

  /** The range of y: of the values within the range of x, and of the levels that are near. @returns {[number, number]} */
  heights() {
    const [first, last] = this.bounds();
    let low = Infinity;
    let high = -Infinity;
    const inside = (/** @type {Line} */ line, /** @type {(number | null)[]} */ values) =>
      /** @type {number[]} */ (values.filter((value, i) => value !== null && line.x[i] >= first && line.x[i] <= last && !(this.log && value <= 0)));
    for (const value of this.lines.flatMap((line) => inside(line, line.y))) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    const span = high - low; // single values widen the picture by so much at most
    for (const line of this.lines) {
      const single = inside(line, line.faint ?? []).sort((a, b) => a - b);
      if (!single.length) continue;
      low = Math.min(low, Math.max(single[Math.floor(single.length * OUT)], low - span));
      high = Math.max(high, Math.min(single[Math.ceil((single.length - 1) * (1 - OUT))], high + span));
    }
    if (low > high) return [this.log ? 0.1 : 0, 1];
    for (const level of this.levels) {
      if (level.y < 2 * high - low) high = Math.max(high, level.y);
      if (level.y > 2 * low - high) low = Math.min(low, level.y);
    }
    if (low === high) return this.log ? [low / 2, low * 2] : [low - (Math.abs(low) || 1) / 2, low + (Math.abs(low) || 1) / 2];
    const room = this.log ? 0 : (high - low) * 0.04;
    return [Math.max(low - room, low >= 0 ? 0 : -Infinity), high + room];
  }

  draw() {
    this.width = Math.max(240, this.element.clientWidth || 600);
    const [first, last] = this.bounds();
    const [low, high] = this.heights();
    const inner = this.width - SIDE.left - SIDE.right;
    const tall = HEIGHT - SIDE.top - SIDE.bottom;
    const scale = this.log ? Math.log : (/** @type {number} */ value) => value;
    this.x = (/** @type {number} */ x) => SIDE.left + ((x - first) / (last - first || 1)) * inner;
    this.y = (/** @type {number} */ y) => SIDE.top + (1 - (scale(y) - scale(low)) / (scale(high) - scale(low) || 1)) * tall;
    this.picture.setAttribute('viewBox', `0 0 ${this.width} ${HEIGHT}`);
    this.picture.setAttribute('height', String(HEIGHT));
    const drawn = [];
    const names = []; // of the levels, before the lines
    for (const value of this.log ? powers(low, high) : ticks(low, high, 5)) {
      const y = this.y(value);
      drawn.push(svg('line', { class: 'grid', x1: SIDE.left, x2: this.width - SIDE.right, y1: y, y2: y }));
      drawn.push(svg('text', { x: SIDE.left - 6, y: y + 4, 'text-anchor': 'end' }, (this.settings.tick ?? this.settings.format)(value)));
    }
    const fitting = Math.floor(inner / (7 * last.toLocaleString('en').length + 20)); // of a narrow chart, whose steps are few
    for (const value of ticks(first, last, Math.max(2, Math.min(3, fitting), Math.floor(inner / 110)))) {
      const x = this.x(value);
      const anchor = x > this.width - 40 ? 'end' : 'middle';
      if (Number.isInteger(value)) drawn.push(svg('text', { x: anchor === 'end' ? this.width - 2 : x, y: HEIGHT - 6, 'text-anchor': anchor }, value.toLocaleString('en')));
    }
    for (const mark of this.marks) {
      if (mark.x < first || mark.x > last) continue;
      const x = this.x(mark.x);
      drawn.push(svg('path', { class: mark.best ? 'mark best' : 'mark', d: `M${x - 4} ${HEIGHT - SIDE.bottom + 7}h8l-4-7z` }));
    }
    for (const level of this.levels) {
      const y = this.y(level.y);
      if (y < SIDE.top - 1 || y > HEIGHT - SIDE.bottom + 1) continue;
      drawn.push(svg('line', { class: 'level', x1: SIDE.left, x2: this.width - SIDE.right, y1: y, y2: y }));
      names.push(svg('text', { class: 'name', x: this.width - SIDE.right - 4, y: y - 4, 'text-anchor': 'end' }, level.name));
    }
    const lines = [];
    for (const line of this.lines) {
      if (line.faint) lines.push(this.path(line, line.faint, 'faint'));
      lines.push(this.path(line, line.y, line.dashed ? 'dashed' : ''));
    }
    const clip = svg('svg', { x: SIDE.left, y: SIDE.top - 2, width: inner, height: tall + 4, viewBox: `${SIDE.left} ${SIDE.top - 2} ${inner} ${tall + 4}` }, lines);
    fill(this.back, drawn, clip, names);
    this.drawCursor();
  }

  /**
   * @param {Line} line
   * @param {(number | null)[]} values
   * @param {string} kind
   */
  path(line, values, kind) {
    let d = '';
    let pen = false;
    values.forEach((value, i) => {
      if (value === null || (this.log && value <= 0)) {
        pen = false;
        return;
      }
      d += `${pen ? 'L' : 'M'}${this.x(line.x[i]).toFixed(1)} ${this.y(value).toFixed(1)}`;
      pen = true;
    });
    return svg('path', { class: `line ${kind}`, d, style: { stroke: `var(--line-${line.colour})` } });
  }

  /** The cursor's line, its points, and their values. */
  drawCursor() {
    const [first, last] = this.bounds();
    this.picture.setAttribute('aria-valuemin', String(first));
    this.picture.setAttribute('aria-valuemax', String(last));
    const at = this.cursor ?? last;
    const values = this.lines.flatMap((line) => {
      const i = nearest(line.x, at);
      const value = i < 0 ? null : line.y[i];
      return value === null || value === undefined ? [] : [{ line, x: line.x[i], value }];
    });
    const step = values.length ? values.reduce((best, each) => (Math.abs(each.x - at) < Math.abs(best - at) ? each.x : best), values[0].x) : at;
    const words = values.map(({ line, value }) => `${line.name} ${this.settings.format(value)}`);
    const text = values.length ? `step ${Math.round(step).toLocaleString('en')}: ${words.join(', ')}` : 'no values yet';
    this.picture.setAttribute('aria-valuenow', String(Math.round(step)));
    this.picture.setAttribute('aria-valuetext', text);
    fill(this.readout, values.length ? h('span', null, `step ${Math.round(step).toLocaleString('en')}`) : null, values.map(({ line, value }) => h('span', { class: 'key' }, h('i', { class: line.dashed ? 'dashed' : '', style: { borderColor: `var(--line-${line.colour})` } }), `${line.name} ${this.settings.format(value)}`)));
    if (this.cursor === null || !values.length) {
      fill(this.front);
      return;
    }
    const x = this.x(step);
    fill(
      this.front,
      svg('line', { class: 'cursor', x1: x, x2: x, y1: SIDE.top, y2: HEIGHT - SIDE.bottom }),
      values.map(({ line, x, value }) => svg('circle', { cx: this.x(x), cy: this.y(value), r: 3.5, style: { fill: `var(--line-${line.colour})` } })),
    );
  }

  /** @param {number | null} x */
  point(x) {
    this.cursor = x;
    this.drawCursor();
    this.settings.point?.(x);
  }

  /** The x of a pixel. @param {number} pixel */
  value(pixel) {
    const [first, last] = this.bounds();
    const share = (pixel - SIDE.left) / (this.width - SIDE.left - SIDE.right);
    return first + Math.max(0, Math.min(1, share)) * (last - first);
  }

  /** The pixel of a pointer. @param {PointerEvent} event */
  at(event) {
    const box = this.picture.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * this.width;
  }

  /** @param {PointerEvent} event */
  move(event) {
    const pixel = this.at(event);
    this.point(this.value(pixel));
    if (this.from === null) return;
    const [left, right] = [this.from, pixel].sort((a, b) => a - b);
    this.front.append(svg('rect', { class: 'range', x: left, width: right - left, y: SIDE.top, height: HEIGHT - SIDE.top - SIDE.bottom }));
  }

  /** @param {PointerEvent} event */
  release(event) {
    const from = this.from;
    this.from = null;
    if (from === null) return;
    const [left, right] = [from, this.at(event)].sort((a, b) => a - b);
    if (right - left > 6) this.settings.zoom([this.value(left), this.value(right)]);
    else this.drawCursor();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const [first, last] = this.bounds();
    const longest = this.lines.reduce((/** @type {number[]} */ best, line) => (line.x.length > best.length ? line.x : best), []);
    const xs = longest.filter((x) => x >= first && x <= last);
    const at = nearest(xs, this.cursor ?? last);
    const far = Math.max(1, Math.round(xs.length / 10));
    /** @type {Record<string, number>} */
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageDown: at - far, PageUp: at + far, Home: 0, End: xs.length - 1 };
    const centre = this.cursor ?? (first + last) / 2;
    if (event.shiftKey && (event.key === 'ArrowLeft' || event.key === 'ArrowRight')) {
      const by = ((last - first) / 4) * (event.key === 'ArrowLeft' ? -1 : 1);
      this.settings.zoom([first + by, last + by]);
    } else if (event.key in moves && xs.length) this.point(xs[Math.max(0, Math.min(xs.length - 1, moves[event.key]))]);
    else if (event.key === '+' || event.key === '=') this.settings.zoom([centre - (centre - first) / 2, centre + (last - centre) / 2]);
    else if (event.key === '-') this.settings.zoom([centre - (centre - first) * 2, centre + (last - centre) * 2]);
    else if (event.key === '0') this.settings.zoom(null);
    else if (event.key === 'Escape') this.point(null);
    else return;
    event.preventDefault();
  }
}

/**
 * The index of the value in an ascending list that is nearest to x; -1 in an empty one.
 * @param {number[]} xs
 * @param {number} x
 */
export function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : Math.min(low, xs.length - 1);
}

/**
 * Round numbers between two values, about so many.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 * @returns {number[]}
 */
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw) ?? 10 * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/**
 * 1, 2 and 5 times powers of ten between two positive values.
 * @param {number} low
 * @param {number} high
 * @returns {number[]}
 */
function powers(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of [1, 2, 5]) found.push(Number((factor * 10 ** power).toPrecision(12)));
  }
  const inside = found.filter((value) => value >= low && value <= high);
  return inside.length > 1 ? inside : ticks(low, high, 4);
}
