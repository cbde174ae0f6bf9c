// Conversation to tokens, as microgpt/data/chat_template.py renders it:
//     BOS  user  text  end_turn  assistant  text  end_turn  …

/** Whether a tokenizer has the tokens of a conversation. @param {Record<string, number>} special @returns {boolean} */
const canChat = (special) => ["user", "assistant", "end_turn"].every((name) => name in special);

/** The turns in tokens without BOS, each closed. @param {number[]} tokens @param {number} end @returns {number[][]} */
function turnsOf(tokens, end) {
  const turns = [];
  for (let at = 0; at < tokens.length;) {
    const stop = tokens.indexOf(end, at);
    const next = stop < 0 ? tokens.length : stop + 1;
    turns.push(stop < 0 ? [...tokens.slice(at), end] : tokens.slice(at, next));
    at = next;
  }
  return turns;
}

/**
 * BOS, the last turns that leave a quarter of the context free, and the role of the answer.
 * @param {number[][]} turns @param {Record<string, number>} special @param {number} block
 * @returns {{tokens: number[], dropped: number}} dropped: tokens left out at the front
 */
function chatPrompt(turns, special, block) {
  const most = block - Math.floor(block / 4) - 2, all = turns.flat().length;
  let kept = turns.slice();
  while (kept.length > 1 && kept.flat().length > most) kept.shift();
  if (kept[0].length > most) kept = [[kept[0][0], ...kept[0].slice(kept[0].length - most + 1)]];
  return { tokens: [special.bos, ...kept.flat(), special.assistant], dropped: all - kept.flat().length };
}
