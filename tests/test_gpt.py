"""gpt.py as a program: its length, its output, and where it looks for text. test_names holds its 1000 losses."""

from __future__ import annotations

import ast
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

import gpt

SOURCE = Path(gpt.__file__)
STEPS = 60  # more than the 50 of the mean


Result = subprocess.CompletedProcess[str]


def run(script: Path, *words: str, cwd: Path) -> Result:
    return subprocess.run([sys.executable, str(script), *words], cwd=cwd, capture_output=True, text=True, timeout=120)


def output(text: str) -> list[str]:
    """The lines that a run of STEPS steps prints, from gpt.py's functions."""
    docs, rng = [line.strip() for line in text.split("\n") if line.strip()], random.Random(42)
    rng.shuffle(docs)
    vocab = [*sorted(set("".join(docs))), gpt.BOS]
    weights = gpt.init_weights(len(vocab), rng)
    lines = [
        f"num docs: {len(docs)}",
        f"vocab size: {len(vocab)}",
        f"num params: {2 * len(vocab) * 16 + 16 * 16 + 12 * 16 * 16}",
        f"loss of guessing: ln {len(vocab)} = {math.log(len(vocab)):.4f}",
    ]
    losses = list(gpt.train(weights, vocab, docs, STEPS))
    for step, loss in enumerate(losses, start=1):
        mean = fmean(losses[max(0, step - 50) : step])
        lines.append(f"step {step:4d} / {STEPS:4d} | loss {loss:.4f} | mean of last 50 {mean:.4f}")
    return [*lines, *(f"sample {i:2d}: {gpt.sample(weights, vocab, rng)}" for i in range(1, 21))]


@pytest.fixture
def clone(tmp_path: Path, given_names: Path) -> Path:
    """The two files of a fresh clone that are needed: gpt.py, with fewer steps, and the package's list of names."""
    source, steps = SOURCE.read_text(encoding="utf-8"), "= 42, 1000, 20, 0.5"
    assert source.count(steps) == 1
    folder = tmp_path / "clone"
    data = folder / "microgpt" / "data"
    data.mkdir(parents=True)
    shutil.copy(given_names, data)
    (folder / "gpt.py").write_text(source.replace(steps, f"= 42, {STEPS}, 20, 0.5"), encoding="utf-8")
    return folder


def test_it_has_at_most_200_lines_with_a_statement_in_each() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    assert max(map(len, source.splitlines())) <= 120
    starts = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    assert len(starts) == len(set(starts))


def test_a_fresh_clone_learns_the_names_of_the_package(clone: Path, given_names: Path) -> None:
    expected = output(given_names.read_text(encoding="utf-8"))
    assert expected[:4] == ["num docs: 3397", "vocab size: 27", "num params: 4192", "loss of guessing: ln 27 = 3.2958"]
    done = run(clone / "gpt.py", cwd=clone)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected


def test_names_of_the_working_folder_come_first(clone: Path, tmp_path: Path) -> None:
    for folder, text in ((clone, "emma\nolivia\n"), (tmp_path, "ava\n")):  # beside gpt.py, then in the working folder
        (folder / "names.txt").write_text(text, encoding="utf-8")
        assert run(clone / "gpt.py", cwd=tmp_path).stdout.splitlines() == output(text)


def test_a_byte_order_mark_and_blank_lines_are_no_text(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbf\r\n  z\xc3\xb6e \r\n\r\n\tova\n \n")
    assert run(clone / "gpt.py", "text", cwd=tmp_path).stdout.splitlines() == output("zöe\nova")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "gpt.py: cannot read 'text\\n.txt': No such file or directory"),
        (b"", "gpt.py: no text in 'text\\n.txt'"),
        (b"\xef\xbb\xbf \n\n", "gpt.py: no text in 'text\\n.txt'"),
        (b"emma\nzo\xeb\n", "gpt.py: cannot read 'text\\n.txt': 'utf-8' codec can't decode byte 0xeb in position 7"),
    ],
)
def test_a_file_that_cannot_be_learned_is_one_line(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "text\n.txt").write_bytes(content)
    done = run(SOURCE, "text\n.txt", cwd=tmp_path)
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["one.txt", "two.txt"]])
def test_other_words_are_answered_with_the_usage(tmp_path: Path, words: list[str]) -> None:
    done = run(SOURCE, *words, cwd=tmp_path)
    assert "python3 gpt.py [FILE]" in done.stderr
    assert (done.returncode, done.stdout) == (1, "")
