// @ts-check
// The texts of a run and their branches, kept for this tab: a reload and another view lose nothing. Candidates are not
// kept; they are asked for again when a text is looked at.

import { load, save } from './kept.js';
import { Part } from './tree.js';

/** @typedef {import('./session.js').Session} Session */
/** @typedef {import('./tree.js').Token} Token */

const MOST = 2 ** 19; // characters that are kept of a run; its oldest texts go first

/** @param {Session} session */
const key = ({ facts }) => `texts.${facts.name.split('@')[0]} ${facts.vocab_size} ${facts.parameters}`; // not of another model

/** @param {Token} token */
const bare = (token) => ({ ...token, candidates: [] });

/**
 * Keep the texts of a session.
 * @param {Session} session
 */
export function remember(session) {
  const root = session.path[0];
  let roots = session.roots.filter((each) => each.children.length);
  for (;;) {
    const kept = JSON.stringify(packed(roots, session.current));
    if (kept.length <= MOST) return save(key(session), kept);
    const oldest = roots.find((each) => each !== root);
    if (!oldest) return save(key(session), '');
    roots = roots.filter((each) => each !== oldest);
  }
}

/**
 * Parts from the first ones on, each after its parent, which is named by its place.
 * @param {Part[]} roots
 * @param {Part | null} current
 */
function packed(roots, current) {
  /** @type {Part[]} */
  const parts = [];
  const visit = (/** @type {Part} */ part) => {
    parts.push(part);
    part.children.forEach(visit);
  };
  roots.forEach(visit);
  const place = new Map(parts.map((part, at) => [part, at]));
  const found = parts.map(({ parent, chosen, children, running, tokens, end, ...rest }) => ({
    ...rest,
    tokens: tokens.map(bare),
    end: end && { ...end, ending: end.ending && bare(end.ending) },
    above: parent ? place.get(parent) : -1,
    chosen: chosen ? place.get(chosen) : -1,
  }));
  return { parts: found, current: current ? (place.get(current) ?? -1) : -1 };
}

/**
 * Take the texts that were kept into a session, and look at the one that was looked at if it is of the same model.
 * @param {Session} session
 */
export function recall(session) {
  const kept = load(key(session), '');
  if (!kept) return;
  const found = JSON.parse(kept);
  /** @type {Part[]} */
  const parts = [];
  for (const { above, chosen, ...rest } of found.parts) {
    const part = new Part(parts[above] ?? null, rest.role);
    parts.push(Object.assign(part, rest));
    if (!part.parent) session.roots.push(part);
  }
  found.parts.forEach((/** @type {{chosen: number}} */ { chosen }, /** @type {number} */ at) => (parts[at].chosen = parts[chosen] ?? null));
  const current = parts[found.current];
  if (current?.model === session.model) session.current = current;
}

/**
 * Whether candidates are to be asked for.
 * @param {Part[]} parts
 */
export function isBare(parts) {
  return parts.some((part) => part.tokens.some((token) => token.candidates.length === 0));
}
