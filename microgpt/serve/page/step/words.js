// @ts-check
// A sentence for every operation, forward and backward.

/** @typedef {{title: string, says: string}} Words */

/** @type {Record<string, Words>} */
const ROLES = {
  token: { title: 'token embedding', says: 'Each token of the document is looked up: its row of wte, a vector that was learned.' },
  position: { title: 'position embedding', says: 'Each place has a vector of its own, too: a row of wpe, so that the model knows where a token stands.' },
  embedding: { title: 'embedding', says: 'Both vectors are added, number by number. From here on x is the residual stream of a position.' },
  embedding_norm: { title: 'norm', says: 'Each position’s vector is divided by the root of the mean of its squares, so that its size is always about 1.' },
  dropout: { title: 'dropout', says: 'Some numbers are set to 0 at random, in training alone, and the others made larger in return.' },
  attention_norm: { title: 'norm before attention', says: 'Attention reads a copy of x that is scaled to size 1; x itself stays as it is.' },
  query: { title: 'query', says: 'A matrix turns each position’s vector into a query: what this position looks for.' },
  key: { title: 'key', says: 'Another one makes a key: what this position offers to be found by.' },
  value: { title: 'value', says: 'And a third one makes a value: what this position passes on when it is found.' },
  rotation: { title: 'rotation', says: 'Pairs of channels are turned by an angle that grows with the position, so that scores depend on distances.' },
  head_norm: { title: 'norm of heads', says: 'Each head’s query or key is scaled to size 1.' },
  scores: { title: 'scores', says: 'How well each query fits the key of every position up to its own: their dot product, head by head. Later positions are masked.' },
  attention: { title: 'attention weights', says: 'Softmax makes the scores of a query positive, and their sum 1: how much it attends to each position.' },
  mix: { title: 'mix of values', says: 'Each head averages the values of the positions by these weights. It is the one place where positions meet.' },
  projection: { title: 'projection', says: 'A matrix brings what the heads have gathered back together.' },
  attention_residual: { title: 'residual after attention', says: 'It is added to x, which keeps all that was there before.' },
  mlp_norm: { title: 'norm before the MLP', says: 'The MLP, too, reads a copy of x that is scaled to size 1.' },
  fc1: { title: 'MLP, first matrix', says: 'Each position alone: a matrix makes four times as many numbers, each of which looks for a pattern in the vector.' },
  activation: { title: 'activation', says: 'Negative numbers become 0 or nearly so: without a bend, two matrices in a row would be no more than one.' },
  fc2: { title: 'MLP, second matrix', says: 'A second matrix turns the patterns that were found into a change of the vector.' },
  mlp_residual: { title: 'residual after the MLP', says: 'The change is added to x. That was one layer.' },
  final_norm: { title: 'last norm', says: 'The vector is scaled to size 1 once more.' },
  logits: { title: 'logits', says: 'The vector of each position is compared with a row per token of the vocabulary: a score for every token that may come next.' },
  softcap: { title: 'soft cap', says: 'Scores that are very large are held below a cap.' },
  probabilities: { title: 'probabilities', says: 'Softmax again: the probability of every token to be the next one.' },
  losses: { title: 'losses', says: 'How surprised the model was at the token that came: minus the logarithm of its probability. Nothing else is ever asked of it.' },
  loss: { title: 'loss', says: 'The mean over the positions: one number, which training makes smaller.' },
};

/** @type {Record<string, string>} */
const BACKWARD = {
  take: 'The gradient of a vector belongs to the row that it was looked up in. A token that occurs twice collects both.',
  add: 'A sum passes its gradient on to both of its parts as it is.',
  norm: 'Each number of the vector is in all of the result, since it is in the size that all are divided by.',
  linear: 'Back through a matrix: a number of the input collects from all results that it went into, weighted by the matrix; a weight collects from all positions, weighted by what was read there.',
  rotate: 'The gradient is turned back by the same angle.',
  scores: 'A query collects from the scores that it made, weighted by the keys, and a key weighted by the queries.',
  softmax: 'A score pushes its own probability up and all others down; so each collects from all of its row.',
  mix: 'A weight collects how useful its value was, and a value collects by how much it was attended to.',
  scale: 'Numbers that were set to 0 learn nothing here.',
  relu: 'Where the number was negative, the gradient ends: 0.',
  relu2: 'Where the number was negative, the gradient ends: 0.',
  gelu: 'Where the number was far below 0, nearly nothing comes through.',
  softcap: 'Near the cap, little comes through.',
  losses: 'Only the probability of the token that came has a gradient: minus one over it. The rarer it was thought, the harder the push.',
  mean: 'Backward begins: the loss grows by 1 when the loss grows by 1. Each position has its share in it.',
};

/** The update, in a sentence. */
export const UPDATE =
  'Adam: m is a running mean of the gradient, v of its square. Each weight moves against m, by about the learning rate ' +
  'whatever its gradient’s size, since m is divided by the root of v.';

/**
 * @param {string} role
 * @returns {Words}
 */
export function wordsOf(role) {
  return ROLES[role] ?? { title: role, says: '' };
}

/** @param {string} kind */
export function backwardOf(kind) {
  return BACKWARD[kind] ?? '';
}
