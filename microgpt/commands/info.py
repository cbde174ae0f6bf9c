"""microgpt info"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from microgpt.commands import Switch
from microgpt.commands.selection import CheckpointFlag, checkpoint_json
from microgpt.model import flops_per_token, n_params, table
from microgpt.runs import checkpoint as checkpoints
from microgpt.runs.folder import RunFolder
from microgpt.terminal import amount, count, output, output_json, output_table, show_loss


def info(run: Path, *, checkpoint: CheckpointFlag = None, verbose: Switch = False, json: Switch = False) -> None:
    """Describe a run or model folder: size, data, losses, files.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    verbose
        Print every setting, matrix and file as well.
    json
        Print one JSON object.
    """
    facts = gather(run, checkpoint)
    if json:
        output_json(facts)
        return
    for label, sentence in sentences(facts).items():
        output(f"{label:8}  {sentence}")
    if verbose:
        show_tables(facts)


def gather(run: Path, which: str | None = None) -> dict[str, Any]:
    """The facts about a folder, ready for JSON: of a run at its last step, unless another checkpoint is named.

    Raises UsageError, CheckpointError.
    """
    saved = checkpoints.read(run, which, weights=True)
    used = saved.selection
    if which is None and used and not used.is_last:
        saved = checkpoints.read(run, "last", weights=True)
    model = saved.config.model
    losses: dict[str, Any] = {key: saved.state.get(key) for key in ("loss", "val_loss", "bits_per_byte", "best")}
    lines = (line["loss"] for line in RunFolder(run).metrics() if "loss" in line)
    if (first := next(lines, None)) is not None:
        last = deque([first], maxlen=50)
        last.extend(lines)
        losses |= {"first": first, "mean_of_last_50": sum(last) / len(last)}
    return {
        "path": str(saved.path),
        "name": saved.config.name,
        "base": saved.config.finetune.base,
        "step": saved.step,
        "n_params": n_params(model),
        "flops_per_token": flops_per_token(model),
        "config": saved.config.to_dict(),
        "parameters": {w.name: list(w.shape) for w in table(model)},
        "tokenizer": {key: getattr(saved.tokenizer, key) for key in ("kind", "vocab_size", "bos")},
        "data": saved.state.get("data"),
        "engine": {key: saved.state.get(key) for key in ("engine", "dtype", "threads")},
        "losses": losses,
        "checkpoint": checkpoint_json(used),
        "checkpoints": [str(path) for path in checkpoints.list_steps(run / "checkpoints")],
        "files": saved.sizes,
    }


def _losses(losses: dict[str, Any]) -> dict[str, str]:
    """The losses that are known, in nats per token, by their labels."""
    said = {}
    if (mean := losses.get("mean_of_last_50")) is not None:
        said["loss"] = f"{mean:.3f} nats per token, the mean of the last 50 steps; {losses['first']:.3f} at the first"
    elif losses.get("loss") is not None:
        said["loss"] = f"{losses['loss']:.3f} nats per token at the last step"
    if losses.get("val_loss") is not None:
        said["held-out"] = f"loss {show_loss(losses['val_loss'], losses.get('bits_per_byte'))}"
    if best := losses.get("best"):
        said["best"] = f"{show_loss(best['val_loss'], best.get('bits_per_byte'))} held out, at step {best['step']:,}"
    return said


def _used(selection: dict[str, Any] | None) -> dict[str, str]:
    """The checkpoint that other commands use, where it is not the last."""
    if not selection or selection["step"] == selection["last"]:
        return {}
    which = "the best checkpoint, of " if selection["kind"] == "best" else ""
    return {"used": f"{which}step {selection['step']:,}"}


def _base(facts: dict[str, Any]) -> str:
    """The model that a fine-tuning continued from, and the weights that it trained."""
    rank = facts["config"]["finetune"]["lora_rank"]
    return f"{facts['base']}, fine-tuned: {f'adapters of rank {rank}' if rank else 'all weights'}"


def sentences(facts: dict[str, Any]) -> dict[str, str]:
    """The facts in words and rounded figures, by label."""
    model, tokenizer, data = facts["config"]["model"], facts["tokenizer"], facts["data"] or {}
    documents = f": {count(data['documents'], 'document')}" if "documents" in data else ""
    engine = facts["engine"]
    weights = sum(size for name, size in facts["files"].items() if name.endswith(".safetensors") and "/" not in name)
    kept = count(len(facts["checkpoints"]), "checkpoint")
    return {
        "path": facts["path"],
        **({"base": _base(facts)} if facts["base"] else {}),
        "step": f"{facts['step']:,} of {facts['config']['run']['steps']:,}",
        **_used(facts["checkpoint"]),
        "model": f"{model['family']}, {facts['n_params']:,} parameters: {count(model['n_layer'], 'layer')}, "
        f"{model['n_embd']} wide, {count(model['n_head'], 'head')}, context {model['block_size']}",
        "tokens": f"{tokenizer['kind']}, vocabulary {tokenizer['vocab_size']:,}",
        **({"data": data["source"] + documents} if "source" in data else {}),
        **({"engine": f"{engine['engine']} in {engine['dtype']}"} if engine.get("engine") else {}),
        **_losses(facts["losses"]),
        "files": f"{amount(sum(facts['files'].values()))} per checkpoint, {amount(weights)} of it weights; {kept} kept"
        if facts["checkpoints"]
        else f"{amount(sum(facts['files'].values()))}, {amount(weights)} of it weights",
    }


def show_tables(facts: dict[str, Any]) -> None:
    """Every setting, matrix and file, as tables."""

    def grid(title: str, rows: dict[str, Any], numbers: bool = False) -> None:
        values = {"justify": "right" if numbers else "left", "overflow": "fold"}
        drawn = [(key, f"{value:,}" if numbers else value) for key, value in rows.items()]
        output("")
        output_table([{"style": "bold"}, values], drawn, title=title)

    for section in ("model", "optim", "data", "run", *(["finetune"] if facts["base"] else [])):
        grid(section, facts["config"][section])
    shapes = {f"{name} {tuple(shape)}": shape[0] * shape[1] for name, shape in facts["parameters"].items()}
    grid("parameters", shapes, numbers=True)
    grid("files (bytes)", facts["files"], numbers=True)
