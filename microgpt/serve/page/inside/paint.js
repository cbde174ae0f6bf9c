// @ts-check
// Numbers as colours, on canvases and in cells, in the colours of the page's light or dark theme.

/** @typedef {[number, number, number]} Colour */

/** @returns {{paper: Colour, hue: Colour, warm: Colour}} */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name */
  const triple = (name) => /** @type {Colour} */ (style.getPropertyValue(name).trim().split(/\s+/).map(Number));
  const card = style.getPropertyValue('--card').trim();
  const paper = [1, 3, 5].map((at) => parseInt(card.slice(at, at + 2), 16));
  return { paper: /** @type {Colour} */ (paper), hue: triple('--hue'), warm: triple('--warm') };
}

/**
 * Call a function when the theme changes.
 * @param {() => void} listener
 * @param {AbortSignal} signal
 */
export function onTheme(listener, signal) {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', listener, { signal });
}

/**
 * Draw a matrix, a pixel per cell: values from -1 to 1, of which the negative are warm.
 * @param {HTMLCanvasElement} canvas
 * @param {number} rows
 * @param {number} columns
 * @param {(row: number, column: number) => number} value
 */
export function paint(canvas, rows, columns, value) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext('2d');
  if (!context || !rows || !columns) return;
  const { paper, hue, warm } = theme();
  const image = context.createImageData(columns, rows);
  const data = image.data;
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const v = value(row, column);
      const colour = v < 0 ? warm : hue;
      const share = Math.min(1, Math.abs(v));
      data[at] = paper[0] + (colour[0] - paper[0]) * share;
      data[at + 1] = paper[1] + (colour[1] - paper[1]) * share;
      data[at + 2] = paper[2] + (colour[2] - paper[2]) * share;
      data[at + 3] = 255;
      at += 4;
    }
  }
  context.putImageData(image, 0, 0);
}

/**
 * The cell of a canvas under the pointer.
 * @param {HTMLCanvasElement} canvas
 * @param {PointerEvent} event
 * @returns {{row: number, column: number}}
 */
export function cellAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const row = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
  const column = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
  return {
    row: Math.max(0, Math.min(canvas.height - 1, row)),
    column: Math.max(0, Math.min(canvas.width - 1, column)),
  };
}

/**
 * A share as people read it: 43 %, 0.7 %.
 * @param {number} share
 */
export function percent(share) {
  const p = 100 * share;
  return `${p > 0 && p < 0.1 ? '<0.1' : p < 10 ? p.toFixed(1) : p.toFixed(0)} %`;
}

/**
 * A token's text with its spaces visible.
 * @param {string} piece
 */
export function visible(piece) {
  const shown = piece.replace(/\n/g, '⏎').replace(/\t/g, '⇥');
  return shown.trim() === '' || shown !== shown.trim() ? shown.replace(/ /g, '␣') : shown;
}

/**
 * A stage of the residual stream in words.
 * @param {string} stage
 */
export function stageName(stage) {
  const found = /^layer(\d+)\.after_(\w+)$/.exec(stage);
  return found ? `layer ${found[1]} ${found[2] === 'mlp' ? 'MLP' : 'attention'}` : stage;
}
