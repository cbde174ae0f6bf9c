"""lm-eval with a remote tokenizer, on tasks of its own: its figures are those of `microgpt eval`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from microgpt.config import Config
from microgpt.inference.evaluate import evaluate
from microgpt.inference.language_model import LanguageModel
from microgpt.training.train import train
from tests.serve.clients.failing import Failed, run
from tests.serve.running import serving

LEARNED = ["hi there", "see you", "fine thanks"] * 20
TEXTS = ["hi there", "see thanks", "you hi fine", "h" * 30, "there see you fine thanks hi you thanks see"]  # to measure
CHOICES = [
    ("hi", [" there", " you"]),
    ("see", [" you", " there"]),
    ("", ["fine thanks", "thanks fine"]),  # an empty context is BOS
    ("", ["hi there", "re thehi"]),
]


def check(python: Path, place: Path) -> str:
    """Raises Failed for another figure than `microgpt eval`'s."""
    (place / "learned.txt").write_text("\n".join(LEARNED), encoding="utf-8")
    (place / "measured.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    sections = {
        # lm-eval does not score the end of a text, so neither does this model.
        "data": {
            "path": str(place / "learned.txt"),
            "format": "lines",
            "trailing_bos": False,
            "drop_duplicates": False,
        },
        "model": {"block_size": 64, "n_embd": 16, "n_head": 2, "init_std": 0.1},
        "optim": {"learning_rate": 0.02},
        "run": {"steps": 120, "batch_size": 4, "samples": 0},
    }
    train(Config.from_dict(sections), place / "texts")
    expected = evaluate(LanguageModel.open(place / "texts"), str(place / "measured.txt"), samples=0).bits_per_byte
    rows = [{"question": question, "choices": choices, "label": 0} for question, choices in CHOICES]
    _task(
        place,
        "choices",
        rows,
        "multiple_choice",
        doc_to_target="{{label}}",
        doc_to_choice="{{choices}}",
        metrics=["acc"],
    )
    texts = [{"question": "", "text": text} for text in TEXTS]
    _task(place, "rolling", texts, "loglikelihood_rolling", doc_to_target="{{text}}", metrics=["bits_per_byte"])
    with serving(place / "texts", log=place / "texts.log") as server:
        options = {"base_url": f"{server.url}/v1/completions", "tokenizer_backend": "remote", "max_length": 64}
        model = ",".join(f"{name}={value}" for name, value in {"model": "texts", **options}.items())
        command = [python, "-m", "lm_eval", "--model", "local-completions", "--model_args", model]
        command += ["--tasks", "choices,rolling", "--include_path", place, "--output_path", place / "results"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hf")}
        run(command, "lm_eval failed", cwd=place, **offline)
    (path,) = (place / "results").rglob("results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    accuracy, bits = results["choices"]["acc,none"], results["rolling"]["bits_per_byte,none"]
    told = f"accuracy {accuracy:g}, {bits:.6f} bits per byte (microgpt eval: {expected:.6f})"
    if accuracy != 1 or not math.isclose(bits, expected, rel_tol=1e-4):
        raise Failed(told)
    return f"passed: {told}"


def _task(place: Path, name: str, rows: list[dict[str, Any]], kind: str, metrics: list[str], **options: str) -> None:
    """A task file, and the rows that it reads."""
    (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(place / f"{name}.jsonl")}},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "{{question}}",
        "target_delimiter": "",
        "metric_list": [{"metric": metric} for metric in metrics],
        **options,
    }
    (place / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML, too
