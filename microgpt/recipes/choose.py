"""Facts about a text × the speed of shapes on this machine × the time → keys of a configuration, and their reasons.

A pure function, so that the same facts and speeds choose the same. Every key that is given stays as it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from microgpt.recipes.facts import MIN_DOCUMENTS, Facts
from microgpt.recipes.table import CHAT, SHORT_LINES, TEXT, Recipe
from microgpt.terminal import amount, duration

Sections = Mapping[str, Mapping[str, Any]]
Speeds = Mapping[Recipe, float]  # training tokens per second

TOO_SHORT = 512  # bytes of a text for which nothing can be chosen
HELD_OUT = 0.1
EVALUATIONS = 20  # in the time, of which they may take EVALUATING
EVALUATING = 0.05
FORWARD = 3  # times that training on a token takes as long as evaluating it
MOST_HELD_OUT = 0.25 * EVALUATING  # of the time, to evaluate once
MOST_PASSES = 1.5  # times the passes over the text that a recipe was made for; more would be learning by heart
LEAST_PASSES = 4  # over the text, with any recipe
PATIENCE = 10
LONGEST_PIECE = 1024  # characters of a chunk
FAMILY = "modern"  # every export holds it


class Plan(NamedTuple):
    """A layer of configuration, and lines that say what was chosen and why."""

    layer: dict[str, dict[str, Any]]
    lines: list[str]
    steps: float  # in the time, at the speeds


FIELDS = {  # of a recipe, by section
    "model": ("n_layer", "n_embd", "n_head", "block_size", "dropout"),
    "optim": ("learning_rate", "weight_decay"),
}


def table_for(facts: Facts) -> tuple[Recipe, ...]:
    """The part of the table for a kind of text."""
    return CHAT if facts.kind == "chat" else SHORT_LINES if facts.kind == "short lines" else TEXT


def nearest(speeds: Speeds, seconds: float) -> Recipe:
    """The recipe for about as many tokens as it trains in the time."""
    return min(speeds, key=lambda row: (abs(math.log(row.tokens / (speeds[row] * seconds))), row.tokens))


def rows_for(facts: Facts, given: Sections) -> list[Recipe]:
    """The recipes of a text: those of the nearest length, with what is `given` in place of theirs."""
    table, length = table_for(facts), math.log(max(facts.new_bytes, 1.0))
    nearest = min({row.bytes for row in table}, key=lambda size: abs(math.log(size) - length))
    fixed = {key: given[name][key] for name, keys in FIELDS.items() for key in keys if key in given.get(name, {})}
    if "n_embd" in fixed:
        fixed.setdefault("n_head", heads(fixed["n_embd"]))
    if "batch_size" in given.get("run", {}):
        fixed["rows"] = given["run"]["batch_size"]
    return [row._replace(**fixed) for row in table if row.bytes == nearest]


def choose(facts: Facts, seconds: float, speeds: Speeds, given: Sections) -> Plan:
    """The keys for a text and a time, and five lines for the user; `given` are the keys that flags and --size set.

    `speeds` must have the rows of `rows_for`. `given` keys are taken into account, and are in the layer too.
    """
    model, optim, data, run = (dict(given.get(name, {})) for name in ("model", "optim", "data", "run"))
    row = nearest(speeds, seconds)

    data |= _reading(facts, row, data)
    documents = facts.bytes // data["chunk_size"] if "chunk_size" in data else facts.documents
    size = facts.new_bytes / _bytes_per_token(data) + documents  # tokens of the text
    rows, block = run.setdefault("batch_size", row.rows) * run.get("grad_accum", 1), row.block_size
    per_step = rows * (block if data.get("packing") == "joined" else min(block, 1 + size / max(1, documents)))
    passes = MOST_PASSES * max(row.tokens / (row.bytes / _bytes_per_token(data)), LEAST_PASSES)
    by_time, by_text = speeds[row] * seconds / per_step, passes * size / per_step
    steps = min(by_time, by_text)

    held = _held_out(data, documents, size, speeds[row] * seconds)
    every = _round(max(steps / EVALUATIONS, held * size / FORWARD / EVALUATING / per_step))
    shape = {key: getattr(row, key) for key in FIELDS["model"]}
    model = {"family": FAMILY, "residual_init": "scaled", "init_std": 0.05, **shape, **model}
    rates = {"learning_rate": row.learning_rate, "min_learning_rate": row.learning_rate / 20, "schedule": "cosine"}
    rates |= {"warmup_steps": int(min(50, steps / 4)), "weight_decay": row.weight_decay}
    optim = {"beta1": 0.9, "beta2": 0.99, "clip_norm": 1.0, **rates, **optim}
    if not {"steps", "epochs"} & run.keys():
        run["steps"] = every * max(1, math.ceil(by_text / every))
    if held:
        run = {"eval_every": every, "checkpoint_every": every, "patience": PATIENCE, **run}
    run = {"temperature": 0.7, **({} if facts.kind in ("chat", "short lines") else {"samples": 5}), **run}
    lines = _lines(facts, seconds, row, {**model, **optim, **data, **run}, (speeds[row], size, steps * per_step))
    return Plan({"model": model, "optim": optim, "data": data, "run": run}, lines, steps)


def _reading(facts: Facts, row: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of data, those that are not given."""
    chosen: dict[str, Any] = {}
    kind = "lines" if facts.kind == "short lines" else facts.kind
    if "format" not in given and kind != "chat":
        chosen["format"] = kind
    if kind == "chunks" and "chunk_size" not in given:
        size = max(16, min(LONGEST_PIECE, facts.bytes // (5 * MIN_DOCUMENTS)))
        chosen |= {"chunk_size": size, "chunk_overlap": 0, "fold_whitespace": False}
    if facts.gutenberg:
        chosen["strip_gutenberg"] = True
    if facts.kind not in ("chat", "short lines"):
        chosen["packing"] = "joined"
    if not {"tokenizer", "tokenizer_size", "bpe_merges"} & given.keys():
        chosen |= {"tokenizer": "bpe", "tokenizer_size": row.vocabulary} if row.vocabulary else {"tokenizer": "char"}
    elif "tokenizer" not in given:
        chosen["tokenizer"] = "bpe"
    if {**chosen, **given}.get("tokenizer") == "bpe":
        chosen["tokenizer_on"] = "train"
    return {key: value for key, value in chosen.items() if key not in given}


def _held_out(data: dict[str, Any], documents: int, size: float, tokens: float) -> float:
    """The share of the text to hold out: a tenth, or less of a long one, which would take the time to evaluate; nothing
    of very few documents."""
    if "val_path" in data:
        return HELD_OUT  # about as long as that
    if "val_fraction" not in data:
        most = max(MOST_HELD_OUT * FORWARD * tokens / max(1.0, size), 2 / max(1, documents))
        data["val_fraction"] = HELD_OUT if most >= HELD_OUT else float(f"{most:.1g}")
        if documents * HELD_OUT < 1:
            data["val_fraction"] = 0.0
    return float(data["val_fraction"])


def _bytes_per_token(data: Mapping[str, Any]) -> float:
    """About how many bytes of text a token of the tokenizer stands for."""
    kind, size = data.get("tokenizer", "char"), data.get("tokenizer_size") or 1024
    if kind == "char":
        return 1.0
    return 4.5 if kind.startswith("word") else max(1.0, 0.65 * math.log2(size / 64) + 0.2)


def heads(width: int) -> int:
    """Heads of at least 32 channels where the width allows: the most that divide it into an even number of channels."""
    return max((n for n in range(1, max(2, width // 32 + 1)) if width % (2 * n) == 0), default=1)


def _round(steps: float) -> int:
    """The number of at most two digits of its kind above: 137 → 140."""
    if steps <= 10:
        return max(1, math.ceil(steps))
    unit = 10 ** (int(math.log10(steps)) - 1)
    return math.ceil(steps / unit) * unit


WHY = {
    "chat": "its first line is a conversation",
    "jsonl": "a line is a JSON object",
    "paragraphs": "blank lines part it",
    "lines": "no blank lines part it",
    "chunks": "neither lines nor blank lines part it",
    "short lines": "names or words, one per line",
}


def _lines(
    facts: Facts, seconds: float, row: Recipe, chosen: Mapping[str, Any], counted: tuple[float, float, float]
) -> list[str]:
    """The plan in five lines: each choice, then its reason. `counted` tokens: per second, of the text, trained."""
    speed, size, tokens = counted
    held, vocabulary = chosen.get("val_fraction", 0.0), chosen.get("tokenizer_size")
    part = "a tenth" if held == HELD_OUT else f"{held:.2%}" if held else "nothing"
    out = (
        f"{part} of the text held out (--val-fraction)"
        if "val_path" not in chosen
        else f"{chosen['val_path']} held out"
    )
    read = chosen.get("format", facts.kind) + ", joined" * (chosen.get("packing") == "joined")
    copies = f"; {facts.repeated:.0%} of it repeats lines" if facts.repeated >= 0.01 else ""
    per_token = _bytes_per_token(chosen)
    words = f"{chosen['tokenizer']}{f' of {vocabulary:,}' if vocabulary else ''}"
    words += " from the training part" * (held > 0 and chosen.get("tokenizer_on") == "train")
    kind = f" in {chosen['dtype']}" if "dtype" in chosen else ""
    shape = f"{chosen['n_layer']} x {chosen['n_embd']}, context {chosen['block_size']}, {chosen['batch_size']} rows"
    return [
        f"time    {duration(seconds)} (--time), {out}",
        f"text    {amount(facts.bytes)}, in {read}: {WHY[facts.kind]}{copies}",
        f"tokens  {words}, {size:,.0f} of about {per_token:.1f} bytes; {facts.alphabet:,} characters",
        f"shape   {shape}: the table's choice for {speed * seconds / 1e6:,.1f} M tokens, {speed:,.0f}/s here{kind}",
        f"rate    {chosen['learning_rate']:g}, dropout {chosen['dropout']:g}, decay {chosen['weight_decay']:g}: "
        f"the text is passed some {tokens / max(1.0, size):.2g} times",
    ]
