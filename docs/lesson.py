"""The figures of docs/lesson.md: `python docs/lesson.py [RUN]` writes its tables, and with a run of names the heat map.

The two-letter model is computed with gpt.py's own functions at a width of 2, so that its numbers fit on a board. Tests
recompute every number of the page.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from refresh import refreshed

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_suffix(".md")
ATTENTION = Path(__file__).with_name("attention.svg")
NAME = "hannah"  # of the heat map


def two_letter_gpt(path: Path = ROOT / "gpt.py", name: str = "two_letter_gpt") -> Any:
    """A copy of gpt.py with width 2, one head and two positions, apart from the module that others import."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.N_EMBD, module.N_HEAD, module.HEAD_DIM, module.BLOCK_SIZE = 2, 1, 2, 2
    return module


gpt = two_letter_gpt()
Value = gpt.Value
VOCAB = ["a", "b", gpt.BOS]
WEIGHTS = {
    "wte": [[1, 0], [0, 1], [-1, -1]],  # of a, b and BOS
    "wpe": [[0.5, 0], [0, 0.5]],  # of positions 0 and 1
    "lm_head": [[1, 0], [0, 1], [-1, -1]],
    "layer0.attn_wq": [[1, 0], [0, 1]],
    "layer0.attn_wk": [[1, 0], [0, 1]],
    "layer0.attn_wv": [[1, 0], [0, 1]],
    "layer0.attn_wo": [[0.5, 0], [0, 0.5]],
    "layer0.mlp_fc1": [[1, -1], [-1, 1]],  # two hidden numbers, where gpt.py has four times the width
    "layer0.mlp_fc2": [[0.5, -0.5], [0, 1]],
}


def weights() -> dict[str, list[list[Any]]]:
    """The two-letter model before training."""
    return {name: [[Value(float(x)) for x in row] for row in rows] for name, rows in WEIGHTS.items()}


def forward(w: dict[str, Any], tokens: Sequence[int]) -> list[dict[str, Any]]:
    """The values of each position by name: the lines of gpt.gpt and gpt.attention for one layer with one head."""
    trace: list[dict[str, Any]] = []
    for position, token in enumerate(tokens):
        t: dict[str, Any] = {}
        trace.append(t)
        t["embedding"] = [a + b for a, b in zip(w["wte"][token], w["wpe"][position], strict=True)]
        t["x"] = gpt.rmsnorm(t["embedding"])
        t["h"] = gpt.rmsnorm(t["x"])
        t["query"], t["key"], t["value"] = (gpt.linear(t["h"], w[f"layer0.attn_w{name}"]) for name in "qkv")
        t["scores"] = [gpt.dot(t["query"], earlier["key"]) / gpt.HEAD_DIM**0.5 for earlier in trace]
        t["weights"] = gpt.softmax(t["scores"])
        columns = zip(*(earlier["value"] for earlier in trace), strict=True)
        t["mixed"] = [gpt.dot(t["weights"], column) for column in columns]
        t["attended"] = [a + b for a, b in zip(gpt.linear(t["mixed"], w["layer0.attn_wo"]), t["x"], strict=True)]
        t["hidden"] = gpt.linear(gpt.rmsnorm(t["attended"]), w["layer0.mlp_fc1"])
        t["relu"] = [h.relu() for h in t["hidden"]]
        t["out"] = [a + b for a, b in zip(gpt.linear(t["relu"], w["layer0.mlp_fc2"]), t["attended"], strict=True)]
        t["logits"] = gpt.linear(t["out"], w["lm_head"])
        t["probs"] = gpt.softmax(t["logits"])
    return trace


def step(w: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    """Forward and backward of the document "ab": the trace of both positions, and the loss."""
    trace = forward(w, [VOCAB.index(token) for token in (gpt.BOS, "a")])
    losses = [t["probs"][VOCAB.index(target)].log() * -1 for t, target in zip(trace, "ab", strict=True)]
    loss = sum(losses, Value(0.0)) * (1 / len(losses))
    loss.backward()
    return trace, loss


def number(x: float) -> str:
    """Three decimals; fewer for a number that has fewer."""
    text = f"{x + 0.0:.3f}"
    return text.rstrip("0").rstrip(".") if abs(x - float(f"{x:.1f}")) < 1e-12 else text.replace("-0.000", "0.000")


def vector(values: Iterable[Any], of: str = "data") -> str:
    """(x, y): the data or the grad of some values."""
    return "(" + ", ".join(number(getattr(value, of)) for value in values) + ")"


def row(step: str, formula: str, numbers: str, line: str) -> str:
    """A row of the tables; the line of gpt.py is looked up."""
    return refreshed(f"| {step} | {formula} | {numbers} | [`{line}`](../gpt.py#L0) |")


HEADER = "| | computed | numbers | gpt.py |\n|---|---|---|---|"


def forward_table() -> str:
    """The forward pass at position 1, where the token is a and the target b."""
    w = weights()
    (first, t), loss = step(w)
    mean_square = sum(x.data**2 for x in t["embedding"]) / 2
    p = t["probs"][1].data
    rows = [
        row("1", "wte[a] + wpe[1]", f"(1, 0) + (0, 0.5) = {vector(t['embedding'])}", 'weights["wpe"][position]'),
        row("2", "x = embedding / √mean square", f"mean square {number(mean_square)}: {vector(t['x'])}",
            "scale = (dot(x, x) / len(x) + 1e-5) ** -0.5"),
        row("3", "h = rmsnorm(x)", f"{vector(t['h'])}: x had that scale already", "h = rmsnorm(x)"),
        row("4", "query, key and value of a", f"{vector(t['query'])}, all three, since wq, wk and wv are the identity",
            'query = linear(h, weights[f"layer{i}.attn_wq"])'),
        row("5", "key and value of BOS", f"{vector(first['key'])}, kept from position 0",
            'keys.append(linear(h, weights[f"layer{i}.attn_wk"]))'),
        row("6", "scores = query · key / √2", f"BOS {number(t['scores'][0].data)}, a {number(t['scores'][1].data)}",
            "dot(query[head], key[head]) / HEAD_DIM**0.5"),
        row("7", "weights = softmax(scores)", f"BOS {number(t['weights'][0].data)}, a {number(t['weights'][1].data)}",
            "weights = softmax("),
        row("8", "mixed = Σ weight · value", vector(t["mixed"]), "mixed += [dot(weights, column)"),
        row("9", "x = wo mixed + x", vector(t["attended"]), 'linear(h, weights[f"layer{i}.attn_wo"])'),
        row("10", "fc1 rmsnorm(x)", vector(t["hidden"]), "hi.relu() for hi in linear(rmsnorm(x)"),
        row("11", "relu", vector(t["relu"]), "max(0.0, self.data)"),
        row("12", "x = fc2 h + x", vector(t["out"]), 'linear(h, weights[f"layer{i}.mlp_fc2"])'),
        row("13", "logits = lm_head x", f"a {number(t['logits'][0].data)}, b {number(t['logits'][1].data)}, "
            f"BOS {number(t['logits'][2].data)}", 'return linear(x, weights["lm_head"])'),
        row("14", "probabilities = softmax(logits)", f"a {number(t['probs'][0].data)}, b {number(p)}, "
            f"BOS {number(t['probs'][2].data)}", "probs = softmax(gpt("),
        row("15", "−ln p(b)", f"{number(-math.log(p))} nats", "losses.append("),
        row("16", "mean with position 0", f"({number(-math.log(first['probs'][0].data))} + {number(-math.log(p))}) / 2 "
            f"= {number(loss.data)} nats", "loss = sum(losses, Value(0.0))"),
    ]  # fmt: skip
    return "\n".join([HEADER, *rows])


def backward_table() -> str:
    """The backward pass through the same rows, from the last to the first."""
    w = weights()
    (_, t), _ = step(w)
    own = ", ".join(number(t["logits"][1].grad * x.data) for x in t["out"])
    rule = "child.grad += local_grad * value.grad"
    rows = [
        row("15", "d p(b) = −1/2 · 1/p(b)", number(t["probs"][1].grad), "1 / self.data"),
        row("14", "d logits = 1/2 (p − target)", vector(t["logits"], "grad"), "return [e / total for e in exps]"),
        row("13", "d lm_head[b] = d logit(b) · x", f"{number(t['logits'][1].grad)} · {vector(t['out'])} = ({own}); "
            f"with position 0: {vector(w['lm_head'][1], 'grad')}", "return Value(data, (*a, *b)"),
        row("13", "d x = Σ d logit · row of lm_head", vector(t["out"], "grad"), "return Value(data, (*a, *b)"),
        row("12", "d h = fc2ᵀ d x", vector(t["relu"], "grad"), rule),
        row("11", "through relu: 0 where h was 0", vector(t["hidden"], "grad"), "float(self.data > 0)"),
        row("9", "d x = own way + way of the MLP", vector(t["attended"], "grad"), rule),
        row("8", "d mixed = woᵀ d x", vector(t["mixed"], "grad"), rule),
        row("7", "d weight = d mixed · value", vector(t["weights"], "grad"), rule),
        row("6", "d scores", vector(t["scores"], "grad"), rule),
        row("4", "d query", vector(t["query"], "grad"), rule),
        row("1", "d wte[a] = d wpe[1]", vector(w["wte"][0], "grad"), rule),
        row("", "d wte[b]: not used, no gradient", vector(w["wte"][1], "grad"), rule),
    ]  # fmt: skip
    return "\n".join([HEADER, *rows])


def figures() -> dict[str, str]:
    """The numbers of the page's prose about the two-letter model, by name."""
    w = weights()
    (_, before), loss = step(w)
    gradient = w["lm_head"][1][0].grad
    small = 0.001
    moved = weights()
    moved["lm_head"][1][0].data += small
    trained = weights()
    losses = list(gpt.train(trained, VOCAB, ["ab"], 30))
    updated = weights()
    next(gpt.train(updated, VOCAB, ["ab"], 30))
    (_, after), final = step(trained)
    return {
        "gradient": number(gradient),
        "loss": number(loss.data),
        "loss moved": f"{step(moved)[1].data:.6f}",
        "loss exact": f"{loss.data:.6f}",
        "slope": number((step(moved)[1].data - loss.data) / small),
        "p before": number(before["probs"][1].data),
        "row updated": vector(updated["lm_head"][1]),
        "loss 2": number(losses[1]),
        "loss end": number(final.data),
        "p end": number(after["probs"][1].data),
    }


def pair_table(docs: Sequence[str], vocab_size: int, n_train: int) -> float:
    """The nats per letter on all documents of a table of pairs counted on the first ones, with 1 added to each."""

    def pairs(some: Iterable[str]) -> Counter[tuple[str, str]]:
        texts = (("", *doc, "") for doc in some)
        return Counter(pair for text in texts for pair in itertools.pairwise(text))

    seen, total = pairs(docs[:n_train]), pairs(docs)
    firsts = Counter(first for first, _ in seen.elements())
    nats = sum(n * -math.log((seen[pair] + 1) / (firsts[pair[0]] + vocab_size)) for pair, n in total.items())
    return nats / total.total()


def shuffled(path: Path) -> list[str]:
    """The documents of a file in the order in which gpt.py trains on them."""
    docs = [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    random.Random(gpt.SEED).shuffle(docs)
    return docs


def attention_weights(run: Path) -> Any:
    """The weights (H, T, T) of the first layer's heads on BOS and NAME, in float64."""
    import numpy as np

    from microgpt.engines import manual
    from microgpt.runs import checkpoint

    saved = checkpoint.read(run, weights=True)
    w = {name: np.asarray(matrix, "float64") for name, matrix in saved.weights().items()}
    tokens = np.array([[saved.tokenizer.bos, *saved.tokenizer.encode(NAME).tolist()]])
    return manual.forward(saved.config.model, w, tokens).layers[0].p[0]


def draw_attention(heads: Any, path: Path) -> None:
    """A heat map per head: a row per position that reads, a column per position that is read."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "attention"  # the same file for the same weights
    from matplotlib import pyplot

    labels = ["BOS", *NAME]
    figure, axes = pyplot.subplots(1, len(heads), figsize=(3.1 * len(heads), 3.6), facecolor="white")
    for i, (axis, weights) in enumerate(zip(axes, heads, strict=True)):
        axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        for t in range(len(labels)):
            for j in range(t + 1):
                colour = "white" if weights[t, j] > 0.5 else "#2e3436"
                axis.text(j, t, f"{weights[t, j]:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
        axis.set_xticks(range(len(labels)), labels)
        axis.set_yticks(range(len(labels)), labels)
        axis.tick_params(length=0, labelsize=9)
        axis.xaxis.tick_top()
        axis.spines[:].set_visible(False)
        axis.set_title(f"head {i}", fontsize=10, pad=8)
    axes[0].set_ylabel("reading position", fontsize=9)
    figure.supxlabel("position that is read", fontsize=9, y=0.1)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15, metadata={"Date": None})
    pyplot.close(figure)


def rendered(text: str) -> str:
    """The page with its tables as they are computed."""
    for name, table in (("forward", forward_table()), ("backward", backward_table())):
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = f"{before}{mark}{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(refreshed(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
    if sys.argv[1:]:
        draw_attention(attention_weights(Path(sys.argv[1])), ATTENTION)
