"""microgpt tokenizer: files in, ids and text out, through the command line itself."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from microgpt.cli import main
from microgpt.commands.tokenizer import visible
from microgpt.tokenizers import KINDS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*words: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        status = main(["tokenizer", *map(str, words)])
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return call


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the fox and the dog\n\nthe dog, the fox\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_becomes_ids_and_comes_back(kind: str, run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer.json"
    assert run("train", text, "--kind", kind, "--out", out)[0] == 0
    status, ids, _ = run("encode", "--tokenizer", out, "--json", stdin=b"the dog, and the fox")
    assert status == 0
    assert all(isinstance(token, int) for token in json.loads(ids))
    assert run("decode", "--tokenizer", tmp_path, stdin=ids.encode())[1] == "the dog, and the fox"
    plain = run("encode", "--tokenizer", out, stdin=b"the dog, and the fox")[1]
    assert run("decode", "--tokenizer", out, stdin=plain.encode())[1] == "the dog, and the fox"


def test_documents_are_lines_or_whole_files(run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer.json"
    run("train", text, "--kind", "char", "--out", out)
    assert "\n" not in json.loads(out.read_bytes())["model"]["vocab"]
    out.unlink()
    run("train", text, "--kind", "char", "--whole", "--roles", "--out", out)
    assert {"\n", "<end_turn>"} < json.loads(out.read_bytes())["model"]["vocab"].keys()


def test_the_vocabulary_has_the_size_asked_for(run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer.json"
    status, printed, err = run("train", text, "--kind", "bpe", "--vocab-size", "260", "--out", out)
    assert (status, printed, err) == (0, f"{out}\n", "wrote   bpe tokenizer, 260 tokens\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [[], ["--whole"]])
def test_there_is_nothing_to_learn_from_blanks(kind: str, whole: list[str], run: Run, tmp_path: Path) -> None:
    text, out = tmp_path / "blank.txt", tmp_path / "tokenizer.json"
    text.write_text(" \n\n")
    status, printed, err = run("train", text, "--kind", kind, *whole, "--out", out)
    assert (status, printed) == (3, "")
    assert "blank.txt: no text in it" in err
    assert not out.exists()


def test_nothing_is_overwritten(run: Run, text: Path, tmp_path: Path) -> None:
    status, _, err = run("train", text, "--out", text)
    assert status == 2
    assert f"{text}: exists already; name another file with --out" in err
    assert "fox" in text.read_text()


def test_a_run_has_a_tokenizer(run: Run, text: Path, tmp_path: Path) -> None:
    assert main(["train", str(text), "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    assert run("show", "the fox", "--tokenizer", tmp_path / "run")[1].endswith("t|h|e| |f|o|x\n")
    status, _, err = run("show", "the fox", "--tokenizer", tmp_path)
    assert (status, err.count("\n")) == (4, 1)


@pytest.mark.parametrize(
    ("words", "stdin", "status", "said"),
    [
        (["train"], b"", 2, "no text"),
        (["train", "nothing.txt"], b"", 3, "nothing.txt: no such file"),
        (["encode", "--tokenizer", "nothing.json"], b"", 4, "nothing.json: cannot be read"),
        (["encode", "--tokenizer", "FILE"], b"the \xff", 3, "byte 5 is not UTF-8"),
        (["encode", "--tokenizer", "FILE"], "the ☃".encode(), 3, "'☃' at position 5"),
        (["decode", "--tokenizer", "FILE"], b"1 two", 3, "'two' is no token id"),
        (["decode", "--tokenizer", "FILE"], b"[1, true]", 3, "True is no token id"),
        (["decode", "--tokenizer", "FILE"], b"1 999", 3, "999 at position 2 is no token"),
        (["decode", "--tokenizer", "FILE"], b"[1,", 4, "damaged JSON"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    words: list[str], stdin: bytes, status: int, said: str, run: Run, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tokenizer.json"
    run("train", text, "--kind", "char", "--out", out)
    found, printed, err = run(*[str(out) if word == "FILE" else word for word in words], stdin=stdin)
    assert (found, printed) == (status, "")
    assert said in err
    assert err.count("\n") == 1


def test_what_is_unknown_can_be_passed_over(run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer.json"
    run("train", text, "--kind", "char", "--out", out)
    ids = run("encode", "--tokenizer", out, "--unk", stdin="the ☃fox".encode())[1]
    assert run("decode", "--tokenizer", out, stdin=ids.encode())[1] == "the fox"


def test_tokens_and_merges_are_shown(run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer.json"
    run("train", text, "--kind", "bpe-vidya", "--merges", "4", "--out", out)
    assert run("show", "the fox", "--tokenizer", out)[1] == "the f|o|x\n"
    table = run("show", "--merges", "--tokenizer", out)[1].splitlines()
    assert table[0].split() == ["merge", "token", "left", "right", "together"]
    assert len(table) == 5
    assert table[1].split() == ["1", "12", "'t'", "'h'", "'th'"]
    text.write_text("ä ä ä", encoding="utf-8")
    run("train", text, "--kind", "bpe", "--merges", "3", "--out", tmp_path / "bytes.json")
    table = run("show", "--merges", "--tokenizer", tmp_path / "bytes.json")[1].splitlines()
    assert [r"\xc3", r"\xa4", "ä"] in [[word[1:-1] for word in line.split()[2:]] for line in table]


def test_nothing_shown_can_steer_a_terminal() -> None:
    assert visible("a\x1b[31m\x9b\n\u202eb") == "a\\x1b[31m\\x9b⏎\n\\u202eb"


@pytest.mark.parametrize("bad", [b"a\xff\n", b"a\0\n"])
def test_advice_names_the_command_that_has_the_flag(bad: bytes, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(bad)
    status, _, said = run("train", tmp_path / "bad.txt", "--out", tmp_path / "tokenizer.json")
    assert (status, said.count("\n")) == (3, 1)
    assert "--skip-bad of microgpt train" in said


@pytest.mark.parametrize("kind", KINDS)
def test_the_help_names_every_kind(kind: str, run: Run) -> None:
    assert re.search(rf"[ (]{kind}\b", run("train", "--help")[1])


def test_an_unknown_kind_is_refused_with_those_there_are(run: Run, text: Path, tmp_path: Path) -> None:
    status, _, err = run("train", text, "--kind", "chars", "--out", tmp_path / "tokenizer.json")
    assert (status, err.count("\n")) == (2, 1)
    assert "no kind 'chars'; expected one of char, word," in err
