// @ts-check
// Conversation to tokens, as microgpt/data/chat_template.py renders it:
//     BOS  user  text  end_turn  assistant  text  end_turn  …

/** @typedef {Record<string, number>} Special  The ids of the special tokens by name. */
/** @typedef {{tokens: number[], dropped: number}} Prompt  `dropped`: tokens that were left out in front. */

/**
 * Whether a tokenizer has the tokens of a conversation.
 * @param {Special} special
 */
export function canChat(special) {
  return ['user', 'assistant', 'end_turn'].every((name) => name in special);
}

/**
 * Tokens for the turns before an answer: three quarters of the context, less BOS and role.
 * @param {number} block
 */
export function promptLength(block) {
  return block - Math.floor(block / 4) - 2;
}

/**
 * BOS, the last turns that `most` tokens hold, and the role of the answer. A system message that leads stays, while it
 * takes at most half of them; of the last turn, role and end stay.
 * @param {number[][]} turns  Each with its role's token and its end.
 * @param {Special} special
 * @param {number} most
 * @returns {Prompt}
 */
export function chatPrompt(turns, special, most) {
  const length = (/** @type {number[][]} */ some) => some.reduce((sum, turn) => sum + turn.length, 0);
  const leads = turns.length > 1 && turns[0][0] === special.system && turns[0].length <= Math.floor(most / 2);
  const lead = leads ? turns.slice(0, 1) : [];
  const left = most - length(lead);
  let kept = turns.slice(lead.length);
  while (kept.length > 1 && length(kept) > left) kept = kept.slice(1);
  if (kept.length && kept[0].length > left) kept = [[kept[0][0], ...kept[0].slice(kept[0].length - left + 1)]];
  kept = [...lead, ...kept];
  return { tokens: [special.bos, ...kept.flat(), special.assistant], dropped: length(turns) - length(kept) };
}
