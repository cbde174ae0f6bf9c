// @ts-check
// Texts and settings, kept for this tab: a reload and another view lose nothing.

/**
 * @param {string} name
 * @param {string} fallback
 */
export function load(name, fallback) {
  try {
    return sessionStorage.getItem(`play.${name}`) ?? fallback;
  } catch {
    return fallback; // a browser may refuse to keep anything
  }
}

/**
 * @param {string} name
 * @param {string} value
 */
export function save(name, value) {
  try {
    sessionStorage.setItem(`play.${name}`, value);
  } catch {
    // then it is only kept while the page is shown
  }
}
