"""What people type and feed by mistake: one line that names it, an exit status, nothing written or lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pytest

from microgpt.cli import main
from microgpt.inference.language_model import LanguageModel
from tests.crash.conftest import Reference
from tests.crash.runs import finish, go_on, new, spawn, wait

Copy = Callable[[], Path]

DATA = {
    "empty": (b"", "no text in it"),
    "white space": (b" \n\t\r\n \n", "no text in it"),
    "only a byte order mark": (b"\xef\xbb\xbf\n", "no text in it"),
    "not UTF-8": (b"ada\nbe\xffn\n", ":2:3: byte 0xff is not UTF-8"),
    "Latin-1 at the end": ("ada\nzo\xe9".encode("latin-1"), ":2:3: byte 0xe9 is not UTF-8"),
    "UTF-16": ("ada\nben".encode("utf-16"), ":1:1: byte 0xff is not UTF-8"),
    "half a character": (b"ada\n\xed\xa0\x80", ":2:1: byte 0xed is not UTF-8"),
}


def fails(words: list[str], capsys: pytest.CaptureFixture[str], status: int, fragment: str) -> str:
    capsys.readouterr()
    assert main(words) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert fragment in said.err
    assert "defect" not in said.err
    return said.err


@pytest.mark.parametrize("what", DATA)
def test_texts_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    data, fragment = DATA[what]
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    fails(new(path, tmp_path / "run"), capsys, 3, f"{path}{'' if fragment[0] == ':' else ': '}{fragment}")
    assert not (tmp_path / "run").exists()


def test_texts_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, fragment in (
        (tmp_path / "none.txt", "no such file"),
        (tmp_path, "no text file in this folder"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        fails(new(path, tmp_path / "run"), capsys, 3, fragment)
    assert not (tmp_path / "run").exists()


def test_a_byte_order_mark_and_crlf_change_nothing(
    reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbf" + reference.data.read_bytes().replace(b"\n", b"\r\n"))
    assert main([*new(path, tmp_path / "run"), "--verbose"]) == 0
    said = capsys.readouterr().err
    assert "byte order mark dropped" in said
    assert "line ends CRLF read as LF" in said
    assert finish([], tmp_path / "run")["tensors"] == reference.end["tensors"]


@pytest.mark.parametrize(
    ("words", "status", "fragment"),
    [
        (["train", "nmes"], 2, "did you mean names"),
        (["train", "no/such/file.txt"], 2, "no such file"),
        (["train", "names", "--bogus", "1"], 2, "--bogus"),
        (["train", "names", "--n-embd", "15"], 2, "n_embd must be divisible by n_head"),
        (["train", "names", "--n-embd", "many"], 2, "--n-embd"),
        (["train", "names", "--steps", "0"], 2, "run.steps: must be greater than 0"),
        (["train", "names", "--steps", "-5"], 2, "run.steps"),
        (["train", "names", "--val-fraction", "2"], 2, "data.val_fraction: must be less than 1, got 2.0"),
        (["train", "names", "--learning-rate", "nan"], 2, "optim.learning_rate"),
        (["train", "names", "--learning-rate", "inf"], 2, "optim.learning_rate"),
        (["train", "names", "--engine", "manul"], 2, "did you mean manual?"),
        (["train", "names", "--dtype", "float16"], 2, "dtype"),
        (["train", "names", "--stop-at", "5000"], 2, "--stop-at"),
        (["train", "names", "--config", "none.toml"], 2, "none.toml: cannot be read"),
        (["train", "names", "--steps", "1.5"], 2, "--steps: must be a whole number, got 1.5"),
        (["train", "names", "--chunk-overlap", ".5"], 2, "--chunk-overlap: must be a whole number, got .5"),
        (["train", "names", "--seed", "1.5e400"], 2, "--seed: must be a whole number, got 1.5e400"),
        (["generate", "none", "-n", "1.6"], 2, "-n: must be a whole number, got 1.6"),
        (["tokenizer", "train", "none", "--vocab-size", "300.5"], 2, "--vocab-size: must be a whole number"),
        (["generate", "none", "-n", "2.0"], 4, "none: no such folder"),
        (["generate"], 2, "generate: RUN is missing; name a run or model folder"),
        (["eval", "--json"], 2, "eval: RUN is missing"),
        (["data", "fetch"], 2, "data fetch: NAME is missing; name a data set (microgpt data list shows them)"),
        (["export", "none"], 2, "export: --to is missing; see microgpt export --help"),
        (["train", "--steps"], 2, "--steps: needs a value; see microgpt train --help"),
        (["train", "names", "poems.txt"], 2, "train: unexpected argument 'poems.txt'; it takes one source"),
        (["info", "none", "more"], 2, "info: unexpected argument 'more'; see microgpt info --help"),
        (["bench", "names", "--plot", "x.svg"], 2, "--plot: draws the ladder only"),
        (["trian"], 2, "trian"),
        (["generate", "none"], 4, "none: no such folder"),
    ],
)
def test_words_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], status: int, fragment: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fails(words, capsys, status, fragment)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[model]\nn_emdb = 3", "did you mean n_embd"),
        ("[modle]\nn_embd = 3", "modle"),
        ("[model]\nn_embd = '16'", "model.n_embd"),
        ("[model]\nn_embd = 16.0", "model.n_embd"),
        ("[model]\nfamily = ['x']", "model.family"),
        ("[model]\nfamily = {a = 1}", "model.family"),
        ("model = 7", "model"),
        ("model = [1]", "model"),
        ("[model", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
        ("name = [" * 2000, "not TOML"),
        ("\x00", "not TOML"),
        ("a = " + "[" * 5000, "nested too deeply"),
    ],
)
def test_configurations_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, fragment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(text)
    fails(["train", "names", "--config", "c.toml"], capsys, 2, fragment)
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_folders_that_cannot_be_written(
    reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    places = [tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)]
    places.append(Path("/proc/microgpt") if os.geteuid() == 0 else locked / "run")  # root may write anywhere else
    for out in places:
        assert main(new(reference.data, out)) in (2, 5)
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith(f"microgpt: {out}")
        assert "defect" not in said[-1]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("limit", [1, 500, 3000, 5000])
def test_a_disk_that_is_full_leaves_the_older_checkpoint(reference: Reference, copy: Copy, limit: int) -> None:
    out = copy()

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert wait(spawn(go_on([], out), Path("/dev/null"), small_disk)) == 5
    assert finish([], out) == reference.end


@pytest.fixture
def halfway_ready(halfway: Path) -> Path:
    """A run whose kernels are compiled, so that opening it prints no notice of that."""
    LanguageModel.open(halfway)
    return halfway


def test_prompts(halfway_ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(halfway_ready)
    fails(["generate", run, "-p", "adä"], capsys, 3, "prompt: character 'ä' at position 3 is not in this tokenizer")
    said = fails(["generate", run, "-p", "Q"], capsys, 3, "leave it out, or train on text that has it or with --unk")
    assert "use --unk" not in said  # generate has no such flag
    fails(["generate", run, "-p", "\udcff"], capsys, 3, "position 1")
    fails(["generate", run, "--temperature", "-1"], capsys, 2, "--temperature")
    fails(["generate", run, "--stop", ""], capsys, 2, "--stop: must be some text")
    fails(["generate", run, "--prompt-file", "none.txt"], capsys, 3, "no such file")
    assert main(["generate", run, "-p", "ada" * 40, "-n", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("ada" * 40)
    assert "the prompt is longer than the context: its first 115 tokens are left out" in said.err
    assert main(["generate", run, "-p", "", "-n", "1"]) == 0


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        ("generate {run} -n 1", [1]),
        ("generate {run} -n 1 -p -", [0]),
        ("info {run}", [1]),
        ("train {data} --steps 2 --engine manual", [2]),
        ("train {data} --steps 2 --engine manual", [0, 1, 2]),
    ],
)
def test_closed_streams(reference: Reference, halfway: Path, tmp_path: Path, words: str, closed: list[int]) -> None:
    done = process(words.format(run=halfway, data=reference.data), tmp_path, closed=closed)
    assert done.returncode == 0
    assert "defect" not in done.stderr


@pytest.mark.parametrize("words", ["generate {run} -n 1", "info {run}", "train --help"])
def test_a_pipe_that_nobody_reads(halfway_ready: Path, tmp_path: Path, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as stdout:
        done = process(words.format(run=halfway_ready), tmp_path, stdout)
    assert (done.returncode, done.stderr) == (141, "")


def process(
    words: str, folder: Path, stdout: int | IO[str] = subprocess.PIPE, closed: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, that buffers its output as a user's does, some of its streams closed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "microgpt", *words.split()],
        cwd=folder, env=environment, input="ada", text=True, stdout=stdout, stderr=subprocess.PIPE,
        preexec_fn=lambda: [os.close(stream) for stream in closed],
    )  # fmt: skip


def test_debug_shows_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path), "--debug"]) == 4
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("microgpt: ")
