// The page: a prompt goes in, tokens come out one by one, each a button that shows what else it could have been.

const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const tokenizer = new Tokenizer(about.tokenizer);
const model = new Model(about.model, unpack(bytesOf($("weights").textContent), about.matrices, about.storage));
const bos = about.tokenizer.special.bos, block = about.model.block_size;
const CANDIDATES = 8;

let seen = [];      // every token so far, BOS first
let given = 0;      // how many of them are BOS and the prompt
let steps = [];     // for each written token {token, p, logits, button, breaks}
let pending = null; // the logits after the last token of `seen`
let run = 0;        // counts runs, so that an older one notices that it is over

/** BOS and the prompt's tokens; as many of the last as leave a quarter of the context free. */
function encode(text) {
  const found = tokenizer.encode(text);
  if (found.length < block) return { tokens: [bos, ...found], dropped: 0 };
  const kept = Math.max(0, block - 1 - Math.max(1, Math.floor(block / 4)));
  return { tokens: [bos, ...found.slice(found.length - kept)], dropped: found.length - kept };
}

const pause = () => new Promise((done) => setTimeout(done));
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");
const level = (p) => `p${p < 0.05 ? 0 : p < 0.2 ? 1 : p < 0.5 ? 2 : p < 0.8 ? 3 : 4}`;

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function busy(on) {
  $("write").disabled = on;
  $("stop").disabled = !on;
}

/** Write on from `seen` until the model ends the text, the context is full or somebody stops it. */
async function write(mine) {
  busy(true);
  say("Writing …");
  const temperature = () => Number($("temperature").value);
  let ended = "";
  const began = performance.now(), before = steps.length;
  let rested = began;
  for (let at = pending ? seen.length : 0; at < seen.length; at++) {
    pending = model.logits(seen[at], at);
    if (performance.now() - rested > 30) {
      await pause();
      rested = performance.now();
      if (mine !== run) return;
    }
  }
  while (mine === run && seen.length <= block) {
    const token = choose(pending, temperature());
    add(token, pending);
    if (token === bos) { ended = "The text has ended."; break; }
    seen.push(token);
    if (seen.length > block) break;
    pending = model.logits(token, seen.length - 1);
    await pause();
  }
  if (mine !== run) return;
  busy(false);
  const n = steps.length - before, seconds = (performance.now() - began) / 1000;
  say(`${ended || `The context of ${block} tokens is full.`} ${n} tokens in ${seconds.toFixed(1)} s.`);
}

/** Show a token that was chosen from these logits. */
function add(token, logits) {
  const p = probabilities(logits)[token];
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = steps.length ? -1 : 0;
  button.className = level(p) + (token === bos ? " end" : "");
  button.setAttribute("aria-pressed", "false");
  const step = { token, p, logits, button, breaks: [] };
  steps.push(step);
  spell();
  button.setAttribute("aria-label", `${tokenizer.show(token)}, ${percent(p)}`);
  button.addEventListener("mouseenter", () => show(steps.indexOf(step)));
  button.addEventListener("focus", () => show(steps.indexOf(step)));
  button.addEventListener("click", () => show(steps.indexOf(step)));
  const lines = button.textContent.split("\n").slice(1); // no line within a button breaks the line around it
  if (lines.length) button.classList.add("newline");
  step.breaks = lines.map(() => document.createElement("br"));
  $("text").append(button, ...step.breaks);
  $("text").scrollTop = $("text").scrollHeight;
}

/** The text of the last token; what a token leaves unfinished shows with the token that finishes it. */
let decode = null;
function spell() {
  const { token, button } = steps.at(-1);
  button.textContent = token === bos ? "end" : decode(token);
}

/** The candidates for one written token. */
function show(at) {
  if (at < 0) return;
  const { token, p, logits } = steps[at];
  steps.forEach(({ button }, i) => {
    button.setAttribute("aria-pressed", String(i === at));
    button.tabIndex = i === at ? 0 : -1;
  });
  const shares = probabilities(logits);
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a] || a - b);
  const rank = order.indexOf(token) + 1;
  const best = order.slice(0, CANDIDATES);
  if (!best.includes(token)) best.push(token);
  $("about-token").textContent =
    `Token ${at + 1}: “${tokenizer.show(token)}”, ${percent(p)}, number ${rank} of ${shares.length}. Choose another to go on from there.`;
  $("candidates").replaceChildren(...best.map((candidate) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
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

/** Take another token at this place and write on. */
function branch(at, token) {
  const mine = ++run;
  const { logits } = steps[at];
  steps.splice(at).forEach(({ button, breaks }) => [button, ...breaks].forEach((part) => part.remove()));
  seen.length = given + at;
  decode = tokenizer.decoder();
  seen.slice(1).forEach((id) => decode(id));
  add(token, logits);
  show(at);
  steps[at].button.focus();
  if (token === bos) { busy(false); say("The text has ended."); return; }
  seen.push(token);
  if (seen.length > block) { busy(false); say(`The context of ${block} tokens is full.`); return; }
  pending = model.logits(token, seen.length - 1);
  write(mine);
}

function start() {
  const mine = ++run, text = $("prompt").value;
  let encoded;
  try {
    encoded = encode(text);
  } catch (error) {
    busy(false);
    say(error.message, true);
    $("prompt").focus();
    return;
  }
  seen = encoded.tokens;
  given = seen.length;
  steps = [];
  pending = null;
  decode = tokenizer.decoder();
  seen.slice(1).forEach((id) => decode(id));
  const shown = document.createElement("span");
  shown.className = "given";
  shown.textContent = text;
  $("text").replaceChildren(shown);
  $("candidates").replaceChildren();
  $("about-token").textContent =
    (encoded.dropped ? `The prompt is longer than the context: its first ${encoded.dropped} tokens are left out. ` : "") +
    "Point at a token, or move to it with Tab and the arrow keys.";
  $("text").scrollIntoView({ block: "nearest" });
  write(mine);
}

function stop() {
  if ($("stop").disabled) return;
  run++;
  busy(false);
  say(`Stopped after ${steps.length} tokens.`);
  $("write").focus();
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("stop").addEventListener("click", stop);
$("temperature").addEventListener("input", () => { $("shown").textContent = Number($("temperature").value).toFixed(2); });
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
$("shown").textContent = Number($("temperature").value).toFixed(2);
