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
from microgpt.terminal import output, output_json, output_table, show_loss


def info(run: Path, *, checkpoint: CheckpointFlag = None, json: Switch = False) -> None:
    """Describe a run or model folder: configuration, parameters, tokenizer, data, losses, files.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    json
        Print one JSON object.
    """
    facts = gather(run, checkpoint)
    if json:
        output_json(facts)
    else:
        show(facts)


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
    labels = {"loss": "last loss", "val_loss": "held-out loss", "first": "first loss"}
    labels |= {"mean_of_last_50": "mean of last 50"}
    bits = {"val_loss": losses.get("bits_per_byte")}
    rows = {labels[key]: show_loss(losses[key], bits.get(key)) for key in labels if losses.get(key) is not None}
    if best := losses.get("best"):
        rows["best"] = f"{show_loss(best['val_loss'], best.get('bits_per_byte'))} held out, at step {best['step']:,}"
    return rows


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


def show(facts: dict[str, Any]) -> None:
    """The facts as tables."""

    def grid(title: str, rows: dict[str, Any], numbers: bool = False) -> None:
        values = {"justify": "right" if numbers else "left", "overflow": "fold"}
        drawn = [(key, f"{value:,}" if numbers else value) for key, value in rows.items()]
        output_table([{"style": "bold"}, values], drawn, title=title)
        output("")

    tokenizer, data = facts["tokenizer"], facts["data"] or {}
    summary = {
        "path": facts["path"],
        **({"base": _base(facts)} if facts["base"] else {}),
        "step": f"{facts['step']:,} of {facts['config']['run']['steps']:,}",
        **_used(facts["checkpoint"]),
        "parameters": f"{facts['n_params']:,}",
        "tokenizer": f"{tokenizer['kind']}, vocabulary {tokenizer['vocab_size']}, BOS {tokenizer['bos']}",
        "data": f"{data.get('source', 'unknown')}, {data.get('documents', '?')} documents",
        "engine": " ".join(str(value) for value in facts["engine"].values() if value),
        **_losses(facts["losses"]),
    }
    grid(facts["name"], summary)
    for section in ("model", "optim", "data", "run", *(["finetune"] if facts["base"] else [])):
        grid(section, facts["config"][section])
    shapes = {f"{name} {tuple(shape)}": shape[0] * shape[1] for name, shape in facts["parameters"].items()}
    grid("parameters", shapes, numbers=True)
    grid("files (bytes)", facts["files"], numbers=True)
