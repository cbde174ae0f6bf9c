// @ts-check
// Several models as one: a token's probability is the mean of theirs.

/** @typedef {import('./model.js').Model} Model */
/** @typedef {{model: import('./model.js').Options, matrices: import('./model.js').Entry[], at: number}} Member  Its blob begins at `at`. */

export class Ensemble {
  /** @param {Model[]} members  Models of one vocabulary. */
  constructor(members) {
    this.members = members;
    this.options = members[0].options; // of those that are looked inside
  }

  /**
   * The logarithm of the mean probability (V) after `token` at `position`, see Model.logits; attention is the first's.
   * @param {number} token
   * @param {number} position
   * @param {Uint16Array | null} [weights]
   */
  logits(token, position, weights = null) {
    const logs = this.members.map((member, i) => logSoftmax(member.logits(token, position, i ? null : weights)));
    return logs[0].map((_, id) => logSumExp(Float64Array.from(logs, (log) => log[id])) - Math.log(logs.length));
  }
}

/** @param {Float64Array} logits */
function logSoftmax(logits) {
  const total = logSumExp(logits);
  return logits.map((logit) => logit - total);
}

/** @param {Float64Array} logs */
function logSumExp(logs) {
  const top = logs.reduce((a, b) => Math.max(a, b));
  return top + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - top), 0));
}
