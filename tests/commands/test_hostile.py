"""Every command on a pseudo-terminal, in a folder whose names and contents try to control it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.commands import doctor
from microgpt.runs import checkpoint, manifest
from microgpt.terminal import CONTROL
from tests.fuzz import cases, child, folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")

MARK = "owned"
NAME = f"\x1b]0;{MARK}\x07\x1b[38;5;199m\x9b31m\u202e[red]{MARK}[link=x]\r\n\x1b[2Jx"  # of a file
EVIL = f"{NAME}[/] [/nothing]\u2028"
TINY = folder.TINY
OURS = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?(25|2004)[lh]|\x1b\[[12]?[KA]")  # of rich and readline


def hostile(run: Path, out: Path) -> Path:
    """A run whose name, description, source and best step are hostile, with a manifest that agrees with them."""
    saved = checkpoint.read(run)
    state: dict[str, Any] = {**saved.state, "engine": EVIL, "data": {**saved.state["data"], "source": EVIL}}
    config = saved.config.model_copy(update={"name": EVIL, "description": EVIL})
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints")
    (out / "checkpoints").mkdir()
    written = checkpoint.write(out / "checkpoints", config, saved.tokenizer, saved.tensors(), state)
    (out / "run.toml").write_text(config.to_toml())
    with (out / "metrics.jsonl").open("a") as file:
        file.write(f"{EVIL}\n")
    (written / NAME).write_text(EVIL)
    return out


def with_manifest(run: Path, out: Path, **changes: Any) -> None:
    """A run whose manifest has other keys."""
    shutil.copytree(run, out)
    path = checkpoint.find(out) / manifest.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fuzz, and hostile twins of what it holds."""
    at = folder.make(tmp_path_factory.mktemp("hostile"))
    (at / f"names{NAME}").write_text("".join(f"{c}\x1b]0;{MARK}\x07\x1b[38;5;199m\x9b\u202e{c}\n" for c in "abcdefgh"))
    hostile(at / "run", at / f"run{NAME}")
    hostile(at / "chat", at / f"chat{NAME}")
    with_manifest(at / "run", at / "listed", files={NAME: {"size": 1, "sha256": "0" * 64}, **{EVIL: EVIL}})
    with_manifest(at / "run", at / "keyed", **{EVIL: EVIL}, format=EVIL)
    for model in ("model-hf", "model-moonbase", "model"):
        shutil.copytree(at / model, at / f"{model}{NAME}")
    with_json(at / f"model-hf{NAME}" / "config.json", hidden_act=EVIL, model_type=EVIL, architectures=[EVIL])
    with_json(at / f"model-moonbase{NAME}" / "meta.json", special_tokens=[EVIL])
    with_json(at / f"model{NAME}" / "config.json", activation=EVIL, **{EVIL: EVIL})
    (at / f"settings{NAME}").write_text(f"[model]\n{json.dumps(EVIL)} = 1\n")
    (at / "value.toml").write_text(f"[model]\nfamily = {json.dumps(EVIL)}\n")
    (at / f"urls{NAME}").write_text(f"http://127.0.0.1:9/{EVIL}\nhttp://{EVIL}/\n")
    (at / f"prompts{NAME}").write_text(f"a\n{EVIL}\n")
    (at / f"talks{NAME}.jsonl").write_text(json.dumps([{"role": EVIL, "content": "x"}]) + "\n")
    shutil.copy(at / "tokenizer.json", at / f"tokenizer{NAME}")
    (at / "no-tokenizer.json").write_text(json.dumps({"version": EVIL, "model": {"type": EVIL}}))
    return at


RUN, CHAT, TEXT = f"run{NAME}", f"chat{NAME}", f"names{NAME}"
SMALL = ["--steps", "2", "--n-embd", "4", "--n-head", "2", "--block-size", "16", "--batch-size", "2", *TINY]
WALK: list[list[str]] = [
    ["train", "--data", TEXT, "--out", f"new{NAME}", "--samples", "3", "--verbose", "--eval-every", "1", *SMALL],
    ["train", TEXT, "--out", "new", "--json", *SMALL],
    ["train", EVIL],
    ["train", "names", "--config", f"settings{NAME}"],
    ["train", "names", "--config", "value.toml"],
    ["train", "--resume", "--out", RUN],
    ["train", "--extend", "1", "--lr", "0.01", "--out", CHAT],
    ["train", "--data", f"talks{NAME}.jsonl", "--out", "new", *SMALL],
    ["train", "--url-file", f"urls{NAME}"],
    ["train", "--data", "names.txt", "--out", "new", "--family", EVIL],
    ["train", "--data", "names.txt", "--out", "new", "--tokenizer", EVIL, *SMALL],
    ["train", "--data", "names.txt", "--out", "new", "--max-time", EVIL],
    ["train", f"--{EVIL}"],
    ["generate", RUN, "-n", "2", *TINY],
    ["generate", RUN, "-n", "1", "--prompt", EVIL, *TINY],
    ["generate", f"new-{NAME}", "-n", "9", "--temperature", "2", *TINY],
    ["generate", f"new-{NAME}", "-n", "2", "--json", *TINY],
    ["generate", RUN, "--prompt-file", f"prompts{NAME}", *TINY],
    ["sample", f"model{NAME}", *TINY],
    ["chat", CHAT, "--prompt", EVIL, *TINY],
    ["chat", CHAT, *TINY],
    ["chat", RUN, "--prompt", "hi", *TINY],
    ["finetune", RUN, "--data", TEXT, "--out", "new", "--steps", "1", "--samples", "1", *TINY],
    ["finetune", CHAT, "--data", "talks.jsonl", "--out", f"new{NAME}", "--steps", "1", *TINY],
    ["eval", RUN, "--data", TEXT, "--samples", "1", "--unk", *TINY],
    ["eval", RUN, "--data", TEXT, *TINY],
    ["eval", RUN, "--data", "names.txt", "--samples", "1", "--json", *TINY],
    ["info", RUN],
    ["info", RUN, "--json"],
    ["info", CHAT],
    ["info", "listed"],
    ["info", "keyed"],
    ["info", f"model{NAME}"],
    ["info", EVIL, "--debug"],
    ["compare", RUN, CHAT],
    ["compare", RUN, "listed", "--json"],
    ["compare", RUN, EVIL],
    ["sweep", EVIL],
    ["runs", "list", RUN, CHAT, "listed"],
    ["runs", "list", EVIL],
    ["runs", "compare", RUN, CHAT],
    ["runs", "plot", RUN],
    ["runs", "best", RUN, CHAT],
    ["runs", "rm", RUN, EVIL],
    ["sweep", TEXT, "--set", f"data.text_field={EVIL}", f"{EVIL}=1"],
    ["scaling", EVIL],
    ["scaling", TEXT, "--widths", EVIL, "--out", f"new{NAME}"],
    ["export", RUN, "--to", "safetensors", "--out", f"new{NAME}", "--data", "names.txt"],
    ["export", RUN, "--to", "html", "--out", f"new{NAME}", "--json", "--no-quality"],
    ["export", CHAT, "--to", EVIL, "--out", "new"],
    ["import", f"model-hf{NAME}", "--out", "new"],
    ["import", f"model-moonbase{NAME}", "--out", "new"],
    ["import", "model.json", "--out", f"new{NAME}"],
    ["bench", "names", "--data", TEXT, *SMALL],
    ["bench", EVIL],
    ["serve", EVIL, "--port", "0"],
    ["serve", f"model{NAME}", "--port", "0", *TINY],
    ["serve", RUN, "--host", EVIL],
    ["doctor"],
    ["scenarios"],
    ["scenarios", "show", "names"],
    ["scenarios", "show", EVIL],
    ["data", "list"],
    ["data", "fetch", EVIL],
    ["data", "fetch", "names"],
    ["data", "tokenize", TEXT, "--tokenizer", "char", "--out", f"new{NAME}"],
    ["data", "tokenize", TEXT, "--tokenizer", EVIL, "--out", "new", "--part", EVIL],
    ["data", "scrape", f"http://127.0.0.1:9/{EVIL}", "--out", f"new{NAME}"],
    ["data", "scrape", "--url-file", f"urls{NAME}", "--out", "new", "--allow-private", EVIL],
    ["tokenizer", "train", TEXT, "--vocab-size", "270", "--out", f"new{NAME}"],
    ["tokenizer", "encode", "--tokenizer", f"tokenizer{NAME}"],
    ["tokenizer", "decode", "--tokenizer", f"new-{NAME}"],
    ["tokenizer", "show", EVIL, "--tokenizer", f"tokenizer{NAME}"],
    ["tokenizer", "show", "--merges", "--tokenizer", f"tokenizer{NAME}"],
    ["tokenizer", "show", "x", "--tokenizer", "no-tokenizer.json"],
    [EVIL],
]
TYPED = {"chat": "hi\n/no such\n/save new\n/quit\n", "encode": "a\n\x04", "decode": "0 1 2 27 155\n\x04"}


def on_terminal(words: list[str], at: Path) -> tuple[int, str]:
    """The status of a command, and what it wrote on its terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child uses none of them
        pid, terminal = pty.fork()
    if not pid:
        status: object = 99
        try:
            os.chdir(at)
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                encoding: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
                setattr(sys, name, open(number, "w" if number else "r", **encoding, closefd=False))  # noqa: SIM115
            os.environ.update(MICROGPT_CACHE_DIR=str(at / f"cache{NAME}"), MICROGPT_DATA_DIR=str(at), TERM="xterm")
            os.environ.update(COLUMNS="900", LINES="90")
            child._cut_the_network()
            warnings.simplefilter("default")
            status = main(words)
            sys.stdout.flush()
        finally:
            os._exit(status if isinstance(status, int) else 98)
    os.write(terminal, TYPED.get(words[-3] if words[0] == "tokenizer" else words[0], "\x04").encode())
    seen, began = b"", time.monotonic()
    while time.monotonic() - began < 60:
        if select.select([terminal], [], [], 1)[0]:
            try:
                piece = os.read(terminal, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode("utf-8", "replace")


def test_the_walk_takes_every_command() -> None:
    for command, _ in cases.commands():
        words = command.split()
        assert any(line[: len(words)] == words for line in WALK), f"add {command}"


@pytest.fixture(scope="module")
def at(place: Path) -> Path:
    """The folder, with a run and a tokenizer that were trained on hostile text."""
    for words in (
        ["train", "--data", TEXT, "--out", f"new-{NAME}.run", *SMALL],
        ["tokenizer", "train", TEXT, "--vocab-size", "290", "--out", f"new-{NAME}.json"],
    ):
        status, seen = on_terminal(words, place)
        assert status == 0, seen
    (place / f"new-{NAME}.run").rename(place / f"new-{NAME}")
    return place


@pytest.mark.parametrize("words", WALK, ids=lambda words: ascii(" ".join(words))[1:60])
def test_no_command_lets_text_of_others_control_the_terminal(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    for slow in ("verify_compiler", "calibrate"):
        monkeypatch.setattr(doctor, slow, lambda: None)
    here = tmp_path / "here"
    shutil.copytree(at, here)
    status, seen = on_terminal(words, here)
    assert status in (0, 2, 3, 4, 5, 6), seen
    for trace in ("\x1b]", "\x1b[38;5;199m", "\x1b[2J", "\x9b", "\u202e", "\u2028", "\x07", f"\r{MARK}", f"\n{MARK}"):
        assert trace not in seen
    assert not CONTROL.search(OURS.sub("", seen).replace("\r", "")), seen
    if MARK in seen and words[0] != "generate":
        assert f"[red]{MARK}" in seen or "\\x1b" in seen  # no markup was taken from it
    assert "Traceback" not in seen or "--debug" in words
