"""Files written by an older version open, resume to the same end and generate the same text.

README.md lists the commands that wrote the fixtures. The tests use the command line and the file formats alone, so
that they do not depend on the package's layout.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from microgpt.cli import main

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))
RUNS: dict[str, Any] = EXPECTED["runs"]

# Relative difference allowed between machines, by the engine of the run; scalar computes the same bits everywhere.
TOLERANCE = {"scalar": 0.0, "functional": 1e-9, "tensor": 1e-9, "manual": 1e-9, "fused": 1e-5}

Run = Callable[..., str]


@pytest.fixture(autouse=True)
def old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the fixtures as the working directory; run.toml names texts and bases relative to it."""
    shutil.copytree(FIXTURES, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command with `typed` on standard input and returns its standard output."""

    def command(*words: str, typed: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8"))
        status = main(words)
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return command


LAST = {"runs/words": ["--checkpoint", "last"]}  # version 0.1.0 used the last checkpoint where a best one was kept


def computed_by(path: str) -> list[str]:
    """The flags of the engine (manual in float64, which needs no compilation, but for the fused run) and checkpoint."""
    engine = [] if path == "runs/fused" else ["--engine", "manual", "--dtype", "float64"]
    return [*engine, *LAST.get(path, [])]


def said(run: Run, path: str) -> dict[str, Any]:
    """The texts of a model: with a seed, from its own generator, and the likeliest tokens past a document's end."""
    found = {}
    for how, flags in {
        "seeded": ["--num-samples", "6", "--seed", "1", "--temperature", "0.8"],
        "own generator": ["--num-samples", "3", "--seed", "run"],
        "likeliest": ["--num-samples", "1", "--temperature", "0", "--no-stop-at-bos"],
    }.items():
        samples = json.loads(run("generate", path, *flags, "--json", *computed_by(path)))["samples"]
        found[how] = [sample["text"] for sample in samples]
    return found


def comparable(texts: dict[str, Any]) -> dict[str, Any]:
    """The texts without the likeliest tokens after the first document, since a context now begins anew there."""
    return {**texts, "likeliest": [text.partition("\n")[0] for text in texts["likeliest"]]}


def answers(run: Run, path: str) -> list[dict[str, Any]]:
    """The answers of a chat model: to a question, after a system message, and in a conversation."""
    flags = ["--json", "--seed", "1", *computed_by(path)]
    one = run("chat", path, "--prompt", "what is blue?", "--temperature", "0", *flags)
    system = run("chat", path, "--prompt", "hello", "--system-prompt", "be short", "--temperature", "0.7", *flags)
    many = run("chat", path, *flags, typed="hello\nhow old?\ndays?\n/clear\nbye\n")
    return [json.loads(line) for line in (one + system + many).splitlines()]


def measured(run: Run, path: str) -> dict[str, Any]:
    """The figures of `eval`."""
    found = json.loads(run("eval", path, "--samples", "20", "--json", *computed_by(path)))
    return {key: value for key, value in found.items() if key not in ("data", "note", "not_measured")}


def known(run: Run, path: str) -> dict[str, Any]:
    """The facts of `info`."""
    facts = json.loads(run("info", path, "--json"))
    data = facts["data"] or {}
    kept = {key: facts[key] for key in ("name", "step", "n_params")}
    kept |= {key: data.get(key) for key in ("source", "documents", "sha256")}
    return kept | facts["tokenizer"] | facts["losses"]


def metrics(path: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the time, and without what older ones do not have."""
    lines = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "grad_norm")} for line in lines]


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors in a folder: weights, adapters, moments."""
    return {name: value for file in sorted(folder.rglob("*.safetensors")) for name, value in load_file(file).items()}


def digest(found: dict[str, np.ndarray]) -> str:
    """SHA-256 of tensors with their names, types and shapes."""
    whole = hashlib.sha256()
    for name, value in sorted(found.items()):
        whole.update(f"{name} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return whole.hexdigest()


def newest(path: str) -> Path:
    """The newest checkpoint of a run."""
    return max(Path(path, "checkpoints").iterdir())


def engine_of(path: str) -> str:
    """The engine that a run is trained with."""
    return str(tomllib.loads(Path(path, "run.toml").read_text(encoding="utf-8"))["run"]["engine"])


def assert_same(found: Any, expected: Any, relative: float) -> None:
    """The same, numbers to within `relative`. An object may have gained keys, and lost none."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_same(found[key], value, relative)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, relative)
    elif isinstance(expected, float) and relative:
        assert found == pytest.approx(expected, rel=relative, abs=0)
    else:
        assert found == expected


@pytest.mark.parametrize("path", EXPECTED["known"])
def test_info_opens_it(run: Run, path: str) -> None:
    assert_same(known(run, path), EXPECTED["known"][path], 1e-12)


@pytest.mark.parametrize("path", EXPECTED["said"])
def test_it_generates_the_same_text(run: Run, path: str) -> None:
    assert comparable(said(run, path)) == comparable(EXPECTED["said"][path])


@pytest.mark.parametrize("path", EXPECTED["answers"])
def test_it_answers_the_same(run: Run, path: str) -> None:
    assert_same(answers(run, path), EXPECTED["answers"][path], 0.0)


@pytest.mark.parametrize("path", EXPECTED["measured"])
def test_it_evaluates_to_the_same_figures(run: Run, path: str) -> None:
    assert_same(measured(run, path), EXPECTED["measured"][path], 1e-5 if path == "runs/fused" else 1e-9)


@pytest.mark.parametrize("path", RUNS)
def test_a_run_resumes_to_the_same_end(run: Run, path: str) -> None:
    """`runs/unsaved` has no checkpoint yet, so it starts from the beginning."""
    end, engine = RUNS[path], engine_of(path)
    assert run("train", "--resume", "--out", path) == end["printed"]
    assert_same(metrics(path), end["metrics"], TOLERANCE[engine])
    state = json.loads((newest(path) / "trainer" / "state.json").read_text(encoding="utf-8"))
    assert state["step"] == end["metrics"][-1]["step"]
    if engine == "scalar":
        assert digest(tensors(newest(path))) == end["sha256"]


@pytest.mark.parametrize("path", RUNS)
def test_run_toml_trains_the_same_run_anew(run: Run, path: str) -> None:
    """`runs/longer` changed its schedule twice; [[earlier]] and schedule_from hold the earlier ones."""
    then = metrics(path)
    run("train", "--config", f"{path}/run.toml", "--stop-at", str(then[-1]["step"]), "--out", "anew")
    assert_same(metrics("anew"), then, TOLERANCE[engine_of(path)])
    if engine_of(path) == "scalar":
        assert digest(tensors(newest("anew"))) == digest(tensors(newest(path)))
    assert rejects("anew") == rejects(path)


def rejects(path: str) -> list[tuple[Any, ...]]:
    """The lines of rejects.jsonl without the reason, whose words may change."""
    file = Path(path, "rejects.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [tuple(json.loads(line)[key] for key in ("file", "line", "text")) for line in lines]


@pytest.mark.parametrize("path", EXPECTED["imported"])
def test_an_export_is_imported_with_the_same_weights(run: Run, path: str) -> None:
    expected = EXPECTED["imported"][path]
    run("import", path, "--out", "imported")
    assert digest(tensors(Path("imported"))) == expected["sha256"]
    assert comparable(said(run, "imported")) == comparable(expected["said"])
    if "answers" in expected:
        assert_same(answers(run, "imported"), expected["answers"], 0.0)


@pytest.mark.parametrize("path", EXPECTED["exported"])
def test_a_run_is_exported_to_the_same_numbers(run: Run, path: str) -> None:
    source, *flags = EXPECTED["exported"][path]
    run("export", source, *LAST.get(source, []), "--to", *flags, "--out", "again")
    if path.endswith(".json"):
        assert json.loads(Path("again").read_text("utf-8")) == json.loads(Path(path).read_text("utf-8"))
        return
    ours, theirs = tensors(Path("again")), tensors(Path(path))
    assert {name: value.dtype for name, value in ours.items()} == {name: value.dtype for name, value in theirs.items()}
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name].astype(np.float64), value.astype(np.float64), rtol=1e-6, err_msg=name)


def test_an_exported_folder_is_fine_tuned(run: Run) -> None:
    options = ["--data", "data/rivers.txt", "--lora-rank", "2", "--steps", "4", "--out", "tuned"]
    run("finetune", "exports/folder", *options)
    assert metrics("tuned") == metrics("runs/adapters")[:4]


@pytest.mark.parametrize("name", EXPECTED["tokenizers"])
def test_a_tokenizer_gives_the_same_ids(run: Run, name: str) -> None:
    expected, file = EXPECTED["tokenizers"][name], f"tokenizers/{name}.json"
    flags = ["--unk"] if name in ("word-unk", "char-roles") else []
    ids = run("tokenizer", "encode", "--tokenizer", file, "--json", *flags, typed=expected["text"])
    assert json.loads(ids) == expected["ids"]
    assert run("tokenizer", "decode", "--tokenizer", file, typed=ids) == expected["decoded"]
