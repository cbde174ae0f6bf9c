"""One HTML file that holds the model and runs it: no server, no network, nothing to install.

Its views are those of `microgpt serve`, made of the same modules; templates/ has the model in JavaScript, which answers
them in place of the service. The content security policy names the hashes of the page's one script and one style, so
that nothing else can run in it, whatever a model's name or tokens say.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files, json_text
from microgpt.formats import ExportJob
from microgpt.formats.bundle import bundle
from microgpt.formats.convert import require
from microgpt.model import Tensors, n_params
from microgpt.runs import tensors
from microgpt.tokenizers import Tokenizer

MOST_PARAMETERS = 16_000_000  # a page of about 45 MB, which phones can open
KINDS = ("char", "word", "word-lossy", "bpe", "bpe-vidya", "bpe-words")
TEMPLATES, PAGE = "formats/templates", "serve/page"
STYLES = [f"{PAGE}/{name}.css" for name in ("page", "play/play", "inside/inside")] + [f"{TEMPLATES}/page.css"]
GPT2 = (  # its pieces, for JavaScript's engine
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+"
    r"|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+"
)


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the file `out`. Raises UsageError for a model too large for a page."""
    config, tokenizer, jobs = job.saved.config, job.saved.tokenizer, (job, *job.others)
    count = sum(n_params(each.saved.config.model) for each in jobs)
    block = min(each.saved.config.model.block_size for each in jobs)
    small = count <= MOST_PARAMETERS, f"{count:,} parameters (at most {MOST_PARAMETERS:,})"
    require("a page", (small, (tokenizer.kind in KINDS, f"a tokenizer of kind {tokenizer.kind}")))
    blob, members = bytearray(), []
    for each in jobs:
        own, entries = pack(each.weights, each.storage)
        members.append({"model": each.saved.config.model.model_dump(), "at": len(blob), "matrices": entries})
        blob.extend(own)
    about = {"name": config.name, "parameters": count, "temperature": min(config.run.temperature, 2)}
    about |= {"model": config.model.model_dump() | {"block_size": block}, "storage": job.storage, "members": members}
    about["tokenizer"] = describe(tokenizer)
    style, script = "\n".join(map(source, STYLES)), bundle(f"{TEMPLATES}/main.js", source)
    facts = (
        f"{f'An ensemble of {len(jobs)} GPTs' if job.others else 'A GPT'} of {count:,} parameters "
        f"with a context of {block} tokens; {tokenizer.kind} tokenizer, vocabulary {config.model.vocab:,}."
    )
    if job.others:
        facts += " Look inside shows the first."
    values = {
        "title": html.escape(config.name),
        "facts": html.escape(facts),
        "style_hash": digest(style),
        "script_hash": digest(script),
        "style": style,
        "about": json_text.dumps(about, separators=(",", ":")).replace("<", "\\u003c"),
        "weights": base64.b64encode(blob).decode(),
        "script": script,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], source(f"{TEMPLATES}/page.html"))
    files.write_atomic(out, page.encode(), replace=False)
    return []


def pack(weights: Tensors, stored: str) -> tuple[bytes, list[dict[str, Any]]]:
    """All matrices in one blob, and where each lies: {name, rows, columns, at} and for int8 `scale`, in bytes."""
    blob, entries = bytearray(), []

    def put(array: np.ndarray) -> int:
        blob.extend(array.tobytes())
        return len(blob) - array.nbytes

    for name, values in weights.items():
        entry = {"name": name, "rows": values.shape[0], "columns": values.shape[1]}
        if stored == "int8":
            whole, scale = tensors.to_int8(name, values)
            entry |= {"at": put(whole), "scale": put(scale)}
        else:
            entry |= {"at": put(tensors.to_float16(name, values))}
        entries.append(entry)
    return bytes(blob), entries


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer for the page's script: {kind, tokens, merges, special, pattern}."""
    content = files.parse_json(tokenizer.to_json(), "tokenizer.json")
    vocab: dict[str, int] = content["model"]["vocab"]
    merges = [(vocab[left], vocab[right]) for left, right in content["model"].get("merges", [])]
    pattern = GPT2 if tokenizer.kind == "bpe" else None
    if tokenizer.kind.startswith("word"):
        pattern = portable(content["pre_tokenizer"]["pattern"]["Regex"])
    if tokenizer.kind == "bpe-words":
        pattern = portable(content["normalizer"]["normalizers"][0]["pattern"]["Regex"])
    return {
        "kind": tokenizer.kind,
        "tokens": sorted(vocab, key=vocab.__getitem__),
        "merges": merges,
        "special": {token["content"][1:-1]: token["id"] for token in content["added_tokens"]},
        "pattern": pattern,
    }


def portable(pattern: str) -> str:
    """A pattern of the `tokenizers` library for JavaScript's engine."""
    return re.sub(r"\\x\{([0-9a-f]+)\}", r"\\u{\1}", pattern)


def source(path: str) -> str:
    """The text of a file of the package."""
    return resources.files("microgpt").joinpath(path).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """The hash by which a content security policy knows a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
