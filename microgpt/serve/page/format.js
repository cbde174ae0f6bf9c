// @ts-check
// Numbers and tokens as people read them.

/**
 * A probability or another share: 43.1 %, 0.70 %.
 * @param {number} share
 */
export function percent(share) {
  if (share === 0) return '0 %';
  if (share < 0.00005) return '< 0.01 %'; // which would be 0.00 %
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}

/**
 * A token's text with its line ends, and its spaces at either end, visible.
 * @param {string} piece
 */
export function visible(piece) {
  const shown = piece.replace(/\n/g, '↵').replace(/\t/g, '⇥');
  return shown.trim() === '' || shown !== shown.trim() ? shown.replace(/ /g, '␣') : shown;
}

/**
 * A number in a few digits.
 * @param {number | null | undefined} x
 * @param {number} [digits]
 */
export function short(x, digits = 4) {
  if (x === null || x === undefined || Number.isNaN(x)) return '–';
  if (x === 0) return '0';
  const size = Math.abs(x);
  const text = size >= 0.001 && size < 10000 ? String(Number(x.toPrecision(digits))) : x.toExponential(digits - 2);
  return text.replaceAll('-', '−').replace('e+', 'e');
}

/**
 * A number in so few characters that it fits beside an axis: 12.5 k, 3.2e-4.
 * @param {number} value
 */
export function compact(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size >= 100 || value === 0) return String(Math.round(value));
  return size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/**
 * A number in full.
 * @param {number | null | undefined} x
 */
export function full(x) {
  return x === null || x === undefined || Number.isNaN(x) ? 'no number' : String(x).replace(/-/g, '−');
}
