// @ts-check
// Numbers as colours, on canvases and in cells, in the colours of the page's light or dark theme.

const SHADES = 255; // of either colour
/** @type {Uint8ClampedArray | null} */
let shades = null; // red, green, blue and alpha of each share from -1 to 1, until the theme changes
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => (shades = null));

/** The colours of all shares, computed once: a style that is read between two changes costs a layout. */
function table() {
  if (shades) return shades;
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name */
  const triple = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
  const [hue, warm] = [triple('--hue'), triple('--warm')];
  const card = style.getPropertyValue('--card').trim();
  const paper = [1, 3, 5].map((at) => parseInt(card.slice(at, at + 2), 16));
  const found = new Uint8ClampedArray(4 * (2 * SHADES + 1)).fill(255);
  for (let shade = -SHADES; shade <= SHADES; shade++) {
    const colour = shade < 0 ? warm : hue;
    const share = Math.abs(shade) / SHADES;
    for (let i = 0; i < 3; i++) found[4 * (shade + SHADES) + i] = paper[i] + (colour[i] - paper[i]) * share;
  }
  shades = found;
  return found;
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
  const image = context.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = new Uint32Array(table().buffer);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const share = Math.max(-1, Math.min(1, value(row, column)));
      pixels[at++] = colours[Math.round(share * SHADES) + SHADES];
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
 * A stage of the residual stream in words.
 * @param {string} stage
 */
export function stageName(stage) {
  const found = /^layer(\d+)\.after_(\w+)$/.exec(stage);
  return found ? `layer ${found[1]} ${found[2] === 'mlp' ? 'MLP' : 'attention'}` : stage;
}
