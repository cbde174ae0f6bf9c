"""Held-out figures, stopping early, and that a resumed run is the same run whatever the data options."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Config
from microgpt.inference.evaluate import Evaluation, evaluate
from microgpt.inference.language_model import LanguageModel
from microgpt.training.prepare import prepare
from microgpt.training.train import train


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = Random(5)
    words = ["the", "cat", "säß", "on", "a", "mat,", "and", "then", "it", "left."]
    path = tmp_path / "text.txt"
    lines = (" ".join(rng.choices(words, k=rng.randrange(1, 9))) + "\n" * rng.choice([1, 2]) for _ in range(120))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def config(text: Path, data: dict[str, Any] | None = None, **run: Any) -> Config:
    return Config.from_dict({"data": {"path": str(text), **(data or {})}, "run": {"steps": 12, "samples": 2, **run}})


def measure(run: Path, path: Path | None = None, samples: int = 0) -> Evaluation:
    return evaluate(LanguageModel.open(run), path and str(path), samples=samples)


def brute_force(run: Path, texts: list[str]) -> tuple[float, int]:
    """Nats and targets of documents, a window of the context after the other, by logits."""
    model = LanguageModel.open(run)
    block, nats, n = model.config.model.block_size, 0.0, 0
    for text in texts:
        tokens = np.array([model.tokenizer.bos, *model.tokenizer.encode(text), model.tokenizer.bos], dtype=np.int32)
        for begin in range(0, len(tokens) - 1, block):
            window = tokens[begin : begin + block + 1]
            logits = np.asarray(model.engine.logits(model.state, window[:-1])[0], dtype=np.float64)
            log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
            nats += float((log_sum - logits[np.arange(len(window) - 1), window[1:]]).sum())
            n += len(window) - 1
    return nats, n


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_figures_are_those_of_the_definition(text: Path, tmp_path: Path, tokenizer: str) -> None:
    data = {"tokenizer": tokenizer, "val_fraction": 0.25}
    trained = train(config(text, data, eval_every=4, dtype="float64", engine="auto"), tmp_path / "run")
    setup = prepare(Config.from_toml(tmp_path / "run" / "run.toml"))
    texts = list(setup.documents.texts)
    held = [texts[i] for i in setup.corpus.order[setup.corpus.n_train :]]
    nats, n = brute_force(tmp_path / "run", held)
    found = measure(tmp_path / "run")
    size = sum(len(text.encode()) for text in held)
    assert (found.documents, found.bytes, found.tokens) == (len(held), size, n)
    assert found.loss == pytest.approx(nats / n, rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(nats / n), rel=1e-9)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-9)
    assert trained.val_loss == pytest.approx(found.loss, rel=1e-12), "the loss of the metrics is the one of eval"


def test_another_file_can_be_measured(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(text), tmp_path / "run")
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "the cat left."}\n{"text": "a mat"}\n', encoding="utf-8")
    nats, n = brute_force(tmp_path / "run", ["the cat left.", "a mat"])
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--data", str(other), "--json", "--samples", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(nats / n, rel=1e-5)
    assert (found["bytes"], found["tokens"], found["documents"], found["samples"]) == (18, n, 2, 3)
    assert 0 <= found["verbatim"] <= 1
    text.unlink()
    assert main(["eval", str(tmp_path / "run"), "--data", str(other), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["verbatim"] is None
    assert "the training text cannot be read" in said.err
    assert main(["eval", str(tmp_path / "run")]) == 3


def test_separate_held_out_text_is_read_as_in_training(text: Path, tmp_path: Path) -> None:
    """Also where its name would suggest another format."""
    other = tmp_path / "val.jsonl"
    other.write_text("the cat left.\na mat\n", encoding="utf-8")
    data = {"format": "lines", "val_path": str(other)}
    trained = train(config(text, data, eval_every=4, engine="manual", dtype="float64"), tmp_path / "run")
    found = measure(tmp_path / "run")
    assert (found.format, found.documents) == ("lines", 2)
    assert trained.val_loss == pytest.approx(found.loss, rel=1e-9)


def test_verbatim_counts_training_documents_alone(text: Path) -> None:
    setup = prepare(config(text, {"val_fraction": 0.25, "drop_duplicates": True}))
    texts, order, n = list(setup.documents.texts), setup.corpus.order, setup.corpus.n_train
    samples = [texts[order[0]], texts[order[0]], texts[order[n]], "no such line"]
    assert setup.corpus.contains(samples) == [True, True, False, False]
    part = texts[0][1:-1]
    assert prepare(config(text, {"packing": "joined"})).corpus.contains([part]) == [True]
    assert prepare(config(text)).corpus.contains([part]) == [False]


def test_patience_stops_early(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a rate of 0 the first loss stays the best."""
    out = tmp_path / "run"
    flags = ["--lr", "0", "--steps", "90", "--eval-every", "5", "--patience", "3", "--samples", "1", "--out", str(out)]
    assert main(["train", str(text), *flags]) == 0
    said = capsys.readouterr()
    assert "stopped at step 20: the best held-out loss stays" in said.err
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-00000005", "step-00000020"]
    assert len(said.out.splitlines()) == 1
    assert main(["train", str(text), "--resume", "--out", str(out)]) == 0
    assert "stopped at step 20" in capsys.readouterr().err
    assert main(["train", str(text), "--resume", "--out", str(out), "--patience", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["stopped_early"], found["best_step"]) == (30, True, 5)


def test_bits_per_byte_stand_beside_every_held_out_loss(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the lines of training, its JSON, metrics.jsonl, the state, info and the card: the figure of eval."""
    out, flags = tmp_path / "run", ["--engine", "manual", "--n-embd", "8", "--n-head", "2", "--samples", "0"]
    flags += ["--tokenizer", "word", "--vocab-size", "9", "--unk", "--steps", "8", "--eval-every", "4", "--json"]
    assert main(["train", str(text), *flags, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert main(["eval", str(out), "--checkpoint", "last", "--engine", "manual", "--samples", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unknown_bytes"] > 0
    loss, bits = found["loss"], found["bits_per_byte"]
    assert f"step 8  held-out loss {loss:.4f} ({bits:.4f} bits per byte)" in said.err
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    best = json.loads((out / "checkpoints" / "step-00000008" / "trainer" / "state.json").read_text())
    for figures in (json.loads(said.out), best, best["best"], [line for line in lines if "val_loss" in line][-1]):
        assert figures["val_loss"] == pytest.approx(loss, rel=1e-9)
        assert figures["bits_per_byte"] == pytest.approx(bits, rel=1e-9)
    assert main(["info", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"held-out loss {loss:.4f} ({bits:.4f} bits per byte)" in shown
    assert f"best {loss:.4f} ({bits:.4f} bits per byte) held out, at step 8" in shown
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["losses"]["bits_per_byte"] == pytest.approx(bits, rel=1e-9)
    card = (out / "checkpoints" / "step-00000008" / "README.md").read_text()
    assert f"- held-out loss: {loss:.4f} nats per token, {bits:.4f} bits per byte\n" in card


def test_flags_of_held_out_text_that_contradict(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, sentence in (
        (["--patience", "2"], "--patience: counts held-out losses; set --eval-every"),
        (["--eval-every", "2", "--val-fraction", "0"], "--eval-every: nothing is held out"),
        (["--val-data", "x", "--val-fraction", "0.1"], "set one of them"),
        (["--vocab-size", "300", "--bpe-merges", "3"], "set one of them"),
        (["--chunk-size", "8", "--chunk-overlap", "8"], "chunk_overlap must be smaller than chunk_size"),
    ):
        assert main(["train", str(text), "--steps", "5", *flags]) == 2
        assert sentence in capsys.readouterr().err


OPTIONS = [
    {"packing": "joined", "format": "paragraphs"},
    {"tokenizer": "bpe", "tokenizer_size": 280, "packing": "joined"},
    {"format": "chunks", "chunk_size": 20, "val_fraction": 0.2},
    {"drop_duplicates": True, "trailing_bos": False},
    {"tokenizer": "word", "val_path": "VAL"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_resumed_run_is_the_same_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], mapped: bool
) -> None:
    if "val_path" in options:
        val = tmp_path / "val.txt"
        val.write_text("the cat left.\n", encoding="utf-8")
        options = {**options, "val_path": str(val)}
    if mapped:
        monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr("microgpt.data.documents.IN_MEMORY", 100)
    chosen = config(text, options, eval_every=3, batch_size=2)
    whole = train(chosen, tmp_path / "whole")
    train(chosen, tmp_path / "parts", stop_at=5)
    saved = Config.from_toml(tmp_path / "parts" / "run.toml")
    parts = train(saved, tmp_path / "parts", resume=True)
    assert parts.samples == whole.samples
    for file in ("model.safetensors", "trainer/optimizer.safetensors"):
        ours, theirs = (tmp_path / run / "checkpoints" / "step-00000012" / file for run in ("whole", "parts"))
        assert ours.read_bytes() == theirs.read_bytes()
    losses = [
        [
            line.get("loss", line.get("val_loss"))
            for line in map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("change", [{"packing": "joined"}, {"drop_duplicates": True}, {"val_fraction": 0.3}], ids=str)
def test_other_rows_are_another_run(
    text: Path, tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", str(text), "--steps", "8", "--stop-at", "4", "--out", out]) == 0
    flags = [word for key, value in change.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    flags = [word for word in flags if word != "True"]
    assert main(["train", str(text), "--resume", "--out", out, *flags]) == 4
    assert "not what this checkpoint was trained with" in capsys.readouterr().err


def test_rejects_are_written_to_the_run(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text.write_bytes(text.read_bytes() + b"a \xff b\nthe cat\n")
    out = tmp_path / "run"
    assert main(["train", str(text), "--steps", "2", "--out", str(out)]) == 3
    assert "byte 0xff is not UTF-8" in capsys.readouterr().err
    assert main(["train", str(text), "--steps", "2", "--out", str(out), "--skip-bad", "--verbose"]) == 0
    assert "rejects dropped (--skip-bad); rejects.jsonl lists them: 1" in capsys.readouterr().err
    (reject,) = map(json.loads, (out / "rejects.jsonl").read_text().splitlines())
    assert reject["why"] == "byte 0xff is not UTF-8 at character 3"
    assert reject["line"] == len(text.read_bytes().splitlines()) - 1


def test_standard_input_can_be_trained_on_and_resumed(text: Path, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    out = tmp_path / "run"
    command = [sys.executable, "-m", "microgpt", "train"]
    environment = {**os.environ, "MICROGPT_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "-", "--out", str(out), "--steps", "6", "--stop-at", "3", "--engine", "manual"],
        input=text.read_bytes(),
        capture_output=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [*command, "--resume", "--out", str(out)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    empty = subprocess.run([*command, "-"], stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment)
    assert empty.returncode == 3
    assert b"standard input: empty" in empty.stderr


def test_why_samples_are_not_measured(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(text), tmp_path / "run")
    assert main(["eval", str(tmp_path / "run"), "--samples", "0"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].split("  ")[-1] == "not measured: no samples were asked for"
    assert main(["eval", str(tmp_path / "run"), "--samples", "3"]) == 0
    assert "% of 3" in capsys.readouterr().out


@pytest.mark.parametrize("mapped", [False, True])
def test_characters_that_the_tokenizer_does_not_know(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mapped: bool
) -> None:
    """Without <unk> the figures are those of the text that is left; with it, each is a token."""
    if mapped:
        monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr("microgpt.data.documents.IN_MEMORY", 5)
    train(config(text, engine="manual"), tmp_path / "run")
    other, left = tmp_path / "other.txt", tmp_path / "left.txt"
    other.write_text("the cat 猫 left.\na mat\n", encoding="utf-8")
    left.write_text("the cat  left.\na mat\n", encoding="utf-8")
    flags = ["--engine", "manual", "--samples", "0", "--json", "--data"]
    run = ["eval", str(tmp_path / "run"), *flags]
    assert main([*run, str(other)]) == 3
    assert "character '猫' at position 9" in capsys.readouterr().err
    figures = []
    for words in ([str(other), "--unk"], [str(left)]):
        assert main([*run, *words]) == 0
        said = capsys.readouterr()
        assert ("left out (--unk): 1" in said.err) == ("--unk" in words)
        found = json.loads(said.out)
        assert (found["unknown_bytes"], found["left_out"]) == ((3, True) if "--unk" in words else (0, False))
        figures.append([found[key] for key in ("loss", "bits_per_byte", "bytes", "tokens")])
    assert figures[0] == figures[1]
    train(config(text, {"unk": True}, engine="manual"), tmp_path / "unk")
    for more in ([], ["--unk"]):
        assert main(["eval", str(tmp_path / "unk"), *flags, str(other), *more]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["tokens"], found["bytes"], found["note"]) == (figures[0][3] + 1, figures[0][2] + 3, None)
        assert (found["unknown_bytes"], found["left_out"]) == (3, False)


def test_unknown_words_are_charged(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits per byte of random letters are at least their entropy, whatever the model makes of <unk>."""
    train(config(text, {"tokenizer": "word", "unk": True}, engine="manual"), tmp_path / "run")
    other, rng = tmp_path / "other.txt", Random(3)
    other.write_text("\n".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=30)) for _ in range(50)))
    command = ["eval", str(tmp_path / "run"), "--engine", "manual", "--samples", "0", "--data", str(other)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_byte"] > math.log2(26)
    bits = found["loss"] * found["tokens"] / math.log(2) + 8 * 50 * 31
    assert found["bits_per_byte"] == pytest.approx(bits / 1500)
    assert found["nats_per_character"] == pytest.approx(bits * math.log(2) / 1500)
    assert (found["unknown_bytes"], found["unknown_share"], found["left_out"]) == (1500, 1.0, False)
    assert main(command) == 0
    assert "100.0% of the bytes, spelled at 8 bits per byte" in capsys.readouterr().out


def test_unknown_characters_of_conversations(
    chat_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [{"role": "user", "content": "hi é"}, {"role": "assistant", "content": "hello there"}]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(talk) + "\n", encoding="utf-8")
    assert main(["eval", str(chat_run), "--data", str(other)]) == 3
    assert "character 'é'" in capsys.readouterr().err
    assert main(["eval", str(chat_run), "--data", str(other), "--unk"]) == 0
    assert "not measured: a chat model answers" in capsys.readouterr().out
