// The page: a prompt goes in, tokens come out one by one, each a button that shows what else it could have been.

const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const tokenizer = new Tokenizer(about.tokenizer);
const model = new Model(about.model, unpack(bytesOf($("weights").textContent), about.matrices, about.storage));
const bos = about.tokenizer.special.bos, block = about.model.block_size;
const CANDIDATES = 8;

const special = about.tokenizer.special, chats = canChat(special);
const end = chats ? special.end_turn : bos; // the token that ends what the model writes
const never = chats ? Object.values(special).filter((id) => id !== end) : []; // in an answer
const PACE = 60; // milliseconds per token, unless at full speed
const LABELS = { user: "You:", assistant: "Model:", system: "System:", end_turn: "end", bos: "end" };

let seen = [];      // every token so far, BOS first
let given = 0;      // how many of them are BOS and the prompt
let steps = [];     // for each token after BOS {token, p, logits, button, breaks, isGiven}
let pending = null; // the logits after the last token of `seen`
let run = 0;        // counts runs, so that an older one notices that it is over
let shown = -1;     // the step whose candidates are shown
let following = true; // the newest token's candidates are shown, until somebody points at another

/** BOS and the prompt's tokens; as many of the last as leave a quarter of the context free. */
function encode(text) {
  const found = tokenizer.encode(text);
  if (found.length < block) return { tokens: [bos, ...found], dropped: 0 };
  const kept = Math.max(0, block - 1 - Math.max(1, Math.floor(block / 4)));
  return { tokens: [bos, ...found.slice(found.length - kept)], dropped: found.length - kept };
}

/** @param {number} milliseconds */
const pause = (milliseconds = 0) => new Promise((done) => setTimeout(done, milliseconds));
const temperature = () => Number($("temperature").value);
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");
const level = (p) => `p${p < 0.05 ? 0 : p < 0.2 ? 1 : p < 0.5 ? 2 : p < 0.8 ? 3 : 4}`;

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

/** @param {boolean} on whether the model is writing */
function busy(on) {
  $("write").disabled = on;
  $("stop").disabled = !on;
}

/** The logits that a token is chosen from: in an answer without roles, and not ended before it has begun. */
function allowed(logits) {
  if (!chats) return logits;
  const z = logits.slice();
  for (const id of [...never, ...(seen.length === given ? [end] : [])]) z[id] = -Infinity;
  return z;
}

/** Write on from `seen` until the model ends the text, the context is full or somebody stops it. */
async function write(mine) {
  busy(true);
  say("Writing …");
  let ended = "", rested = performance.now();
  const began = rested, before = seen.length;
  const rest = async () => {
    if (performance.now() - rested < 30) return;
    if (following) show(steps.length - 1);
    await pause();
    rested = performance.now();
  };
  for (let at = pending ? seen.length : steps.length; at < seen.length; at++) {
    pending = model.logits(seen[at], at);
    if (at + 1 < seen.length) add(seen[at + 1], pending, true);
    await rest();
    if (mine !== run) return;
  }
  while (mine === run && seen.length <= block) {
    const due = performance.now() + PACE;
    const token = choose(allowed(pending), temperature());
    add(token, pending);
    if (token === end) { seen.push(token); ended = chats ? "The answer has ended." : "The text has ended."; break; }
    seen.push(token);
    if (seen.length > block) break;
    pending = model.logits(token, seen.length - 1);
    if ($("fast").checked) await rest();
    else {
      if (following) show(steps.length - 1);
      await pause(Math.max(0, due - performance.now()));
    }
  }
  if (mine !== run) return;
  busy(false);
  if (following) show(steps.length - 1);
  const n = seen.length - before, seconds = (performance.now() - began) / 1000;
  say(`${ended || `The context of ${block} tokens is full.`} ${n} tokens in ${seconds.toFixed(1)} s.`);
}

/** Show a token that was chosen from these logits, or that was given. */
function add(token, logits, isGiven = false) {
  const p = probabilities(logits)[token], name = tokenizer.special.get(token);
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = steps.length ? -1 : 0;
  button.className = [level(p), isGiven ? "given" : "", token === end ? "end" : name in LABELS ? "role" : ""].join(" ");
  button.setAttribute("aria-pressed", "false");
  const step = { token, p, logits, button, breaks: [], isGiven };
  steps.push(step);
  button.textContent = LABELS[name] ?? decode(token); // a token that is no whole character shows with the one that ends it
  button.setAttribute("aria-label", `${tokenizer.show(token)}, ${percent(p)}`);
  const point = () => { following = false; show(steps.indexOf(step)); };
  for (const event of ["mouseenter", "focus", "click"]) button.addEventListener(event, point);
  const lines = button.textContent.split("\n").slice(1); // no line within a button breaks the line around it
  if (lines.length) button.classList.add("newline");
  step.breaks = lines.map(() => document.createElement("br"));
  if (button.classList.contains("role") && steps.length > 1) $("text").append(step.before = document.createElement("br"));
  $("text").append(button, ...step.breaks);
  $("text").scrollTop = $("text").scrollHeight;
}

let decode = null; // from a token to the text that it completes

/** The candidates for one token, with their probabilities at the temperature that is set. */
function show(at) {
  if (at < 0 || at >= steps.length) return;
  const { token, p, logits, isGiven, button: pressed } = steps[at];
  for (const [i, on] of [[shown, false], [at, true]]) {
    if (!(i in steps)) continue;
    steps[i].button.setAttribute("aria-pressed", String(on));
    steps[i].button.tabIndex = on ? 0 : -1;
  }
  if (at !== 0) steps[0].button.tabIndex = -1;
  pressed.tabIndex = 0;
  shown = at;
  const t = temperature(), order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  const shares = t > 0 ? probabilities(logits, t) : logits.map((_, id) => Number(id === order[0]));
  const best = order.slice(0, CANDIDATES);
  if (!best.includes(token)) best.push(token);
  $("about-token").textContent =
    `Token ${at + 1}: “${tokenizer.show(token)}”, ${percent(p)}, number ${order.indexOf(token) + 1} of ${order.length}. ` +
    `The bars are at temperature ${t.toFixed(2)}. ` +
    (isGiven ? "It was given." : "Choose another to go on from there.");
  $("candidates").replaceChildren(...best.map((candidate) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.disabled = isGiven;
    if (candidate === token) button.setAttribute("aria-current", "true");
    const word = document.createElement("span"), share = document.createElement("span"), meter = document.createElement("meter");
    word.className = "word";
    word.textContent = tokenizer.show(candidate);
    share.className = "share";
    share.textContent = percent(shares[candidate]);
    meter.value = shares[candidate];
    meter.setAttribute("aria-hidden", "true");
    button.append(word, share, meter);
    button.addEventListener("click", () => branch(at, candidate));
    item.append(button);
    return item;
  }));
}

/** Remove the tokens from a step on, and let the decoder stand where the rest ends. */
function cut(at) {
  steps.splice(at).forEach(({ button, breaks, before }) => [button, before, ...breaks].forEach((part) => part?.remove()));
  if (shown >= at) shown = -1;
  decode = tokenizer.decoder();
  steps.forEach(({ token }) => tokenizer.special.get(token) in LABELS || decode(token));
}

/** Take another token at this place and write on. */
function branch(at, token) {
  const mine = ++run;
  const { logits } = steps[at];
  cut(at);
  seen.length = at + 1;
  add(token, logits);
  show(at);
  steps[at].button.focus();
  seen.push(token);
  if (token === end) { busy(false); say("The text has ended."); return; }
  if (seen.length > block) { busy(false); say(`The context of ${block} tokens is full.`); return; }
  pending = model.logits(token, seen.length - 1);
  write(mine);
}

/** Write on from the prompt, or answer the message; what stands already is not computed again. */
function start() {
  const text = $("prompt").value, mine = ++run;
  let encoded;
  try {
    if (chats && !text.trim()) throw new Error("Type a message first.");
    encoded = chats
      ? chatPrompt([...turnsOf(seen.slice(1), end), [special.user, ...tokenizer.encode(text), end]], special, block)
      : encode(text);
  } catch (error) {
    busy(false);
    say(error.message, true);
    $("prompt").focus();
    return;
  }
  let same = 0;
  if (chats) while (same < steps.length && seen[same + 1] === encoded.tokens[same + 1]) same++;
  cut(same);
  steps.forEach((step) => { step.isGiven = true; step.button.classList.add("given"); });
  if (same === 0) $("text").replaceChildren();
  seen = encoded.tokens;
  given = seen.length;
  pending = null;
  following = true;
  $("candidates").replaceChildren();
  $("about-token").textContent = encoded.dropped
    ? `Too long for the context: the first ${encoded.dropped} tokens are left out.` : "";
  if (chats) $("prompt").value = "";
  $("text").scrollIntoView({ block: "nearest" });
  write(mine);
}

/** Begin a new conversation. */
function clear() {
  run++;
  busy(false);
  seen = [];
  cut(0);
  $("text").replaceChildren();
  $("candidates").replaceChildren();
  say("A new conversation.");
  $("prompt").focus();
}

function stop() {
  if ($("stop").disabled) return;
  run++;
  busy(false);
  say(`Stopped after ${seen.length - given} tokens.`);
  $("write").focus();
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("stop").addEventListener("click", stop);
$("clear").addEventListener("click", clear);
$("temperature").addEventListener("input", () => { $("shown").textContent = temperature().toFixed(2); show(shown); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === $("prompt")) { event.preventDefault(); start(); }
});
$("text").addEventListener("keydown", (event) => {
  const at = steps.findIndex(({ button }) => button === document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  steps[Math.min(Math.max(to, 0), steps.length - 1)].button.focus();
});
$("shown").textContent = temperature().toFixed(2);
$("clear").hidden = !chats;
if (chats) {
  $("ask").textContent = "Your message";
  $("write").textContent = "Send";
  $("text-title").textContent = "Conversation";
  $("hint").textContent = "Ctrl + Enter sends, Escape stops.";
}
