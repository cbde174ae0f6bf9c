"""docs/lesson.md: its numbers are recomputed, its commands work, its exercises have the answers that it gives."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpt
from microgpt.cli import main
from tests.mutants import MUTANTS
from tests.test_readme import ROOT, blocks, commands

sys.path.insert(0, str(ROOT / "docs"))
import lesson

PAGE = lesson.PAGE.read_text(encoding="utf-8")
PROSE, TABLES = "", ""
for i, part in enumerate(re.split(r"<!-- (?:forward|backward|end) -->", PAGE)):
    PROSE, TABLES = (PROSE + part, TABLES) if i % 2 == 0 else (PROSE, TABLES + part)
SOURCE = (ROOT / "gpt.py").read_text(encoding="utf-8")
GOLDEN = [float(x) for x in (ROOT / "tests/golden/names_losses.txt").read_text("utf-8").split()]
RealData = Callable[[str], Path]


def test_the_tables_are_as_gpt_computes_them() -> None:
    assert lesson.rendered(PAGE) == PAGE, "run python docs/lesson.py"


def test_the_worked_forward_pass_is_that_of_gpt() -> None:
    w, cache = lesson.weights(), [([], [])]
    trace = lesson.forward(w, [2, 0])
    for position, token in enumerate((2, 0)):
        expected = [z.data for z in lesson.gpt.gpt(w, token, position, cache)]
        assert [z.data for z in trace[position]["logits"]] == expected
    assert lesson.step(lesson.weights())[1].data == next(lesson.gpt.train(lesson.weights(), lesson.VOCAB, ["ab"]))


def test_the_worked_backward_pass_is_the_limit_of_differences() -> None:
    w, small = lesson.weights(), 1e-6
    lesson.step(w)
    for name, rows in w.items():
        for i, row in enumerate(rows):
            for j, weight in enumerate(row):
                up, down = lesson.weights(), lesson.weights()
                up[name][i][j].data += small
                down[name][i][j].data -= small
                slope = (lesson.step(up)[1].data - lesson.step(down)[1].data) / (2 * small)
                assert weight.grad == pytest.approx(slope, abs=1e-6), name


def decimals(text: str) -> set[str]:
    """The numbers with a decimal point, apart from those in links and code."""
    return set(re.findall(r"(?<![\w.])-?\d+\.\d+(?![\w.])", re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)))


def test_every_decimal_of_the_prose_is_computed() -> None:
    """The numbers about names are those of test_the_lesson_on_names."""
    known = decimals(TABLES) | decimals(" ".join(lesson.figures().values())) | NAMES | SETTINGS
    known |= decimals(PAGE.split("## Answers")[1])  # each is compared in the test of its exercise
    prose = "".join(part for i, part in enumerate(PROSE.split("```")) if i % 2 == 0)
    assert len(decimals(prose)) > 30
    assert [name for name, figure in lesson.figures().items() if figure not in prose] == []
    assert decimals(prose) - known == set()


LN2 = f"{math.log(2):.3f}"
SETTINGS = {"0.5", "-0.5", "0.01", "0.001", "0.15", "0.1", LN2}  # rates and moments of gpt.py, weights of the example
NAMES = {"3.30", "4.75", "2.50", "3.61", "2.37", "3.41", "2.85", "2.32", "2.65", "0.86"}


def test_the_settings_are_those_of_gpt() -> None:
    assert gpt.LEARNING_RATE == 0.01
    assert (f"{1 - gpt.BETA1:.2f}", f"{math.sqrt(1 - gpt.BETA2):.2f}") == ("0.15", "0.10")
    for name, rows in lesson.WEIGHTS.items():
        column = name.removeprefix("layer0.").removeprefix("attn_").removeprefix("mlp_")
        assert column in PAGE
        for row in rows:
            assert f"({row[0]}, {row[1]})" in PAGE, name


def test_the_lesson_on_names(
    real_data: RealData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands in order, and every figure that the page gives of them."""
    docs = lesson.shuffled(real_data("names"))
    monkeypatch.chdir(tmp_path)
    assert [words[0] for words in commands("docs/lesson.md")] == ["train", "eval", "generate", "generate", "generate"]
    printed = []
    for words in commands("docs/lesson.md"):
        assert main(words) == 0, words
        printed.append(capsys.readouterr().out)
    nats = float(re.search(r"^loss +([\d.]+) nats per token", printed[1], re.M)[1])  # type: ignore[index]
    pairs = lesson.pair_table(docs, 27, 1000)
    rows = [(math.log(27), "3.30", "4.75", 27), (pairs, "2.50", "3.61", 12), (nats, "2.37", "3.41", 11)]
    for value, said, bits, choices in rows:
        assert value == pytest.approx(float(said), abs=0.0055)
        assert value / math.log(2) == pytest.approx(float(bits), abs=0.0055)
        assert round(math.exp(value)) == choices
        assert f"| {said} | {bits} | {choices} |" in PAGE
    assert f"{pairs / math.log(2):.2f}" == "3.61"
    assert sum(doc.startswith("em") for doc in docs) == 288
    assert f"all {len(docs):,}" in PAGE
    assert re.search(r"3\d% of 100", printed[1])  # a third
    third = printed[4].split()
    assert len(third) == 3
    assert len(set(third)) == 1
    assert printed[2] != printed[3]
    assert f"{sum(GOLDEN[:50]) / 50:.2f} {sum(GOLDEN[-50:]) / 50:.2f} {GOLDEN[-1]:.2f}" == "2.85 2.32 2.65"
    assert main(["generate", "runs/names", "-n", "100", "--seed", "42"]) == 0
    known, seen = set(docs), set(docs[:1000])
    real = [name for name in capsys.readouterr().out.split() if name in known]
    assert sum(name in seen for name in real) < len(real) / 2  # most of those it has never seen

    heads = lesson.attention_weights(Path("runs/names"))
    assert all(max(row[: t + 1]) - min(row[: t + 1]) < 0.1 for t, row in enumerate(heads[0]))  # nearly even
    second_n = lesson.NAME.index("nn") + 2  # behind BOS
    assert f"{heads[3][second_n, lesson.NAME.index('a') + 1]:.2f}" == "0.86"
    pytest.importorskip("matplotlib")
    lesson.draw_attention(heads, tmp_path / "again.svg")
    assert texts(tmp_path / "again.svg") == texts(lesson.ATTENTION), "run python docs/lesson.py runs/names"


def texts(picture: Path) -> list[str]:
    """The texts of a picture that matplotlib drew."""
    return re.findall(r"<!-- (.*?) -->", picture.read_text(encoding="utf-8"))


def test_gpt_prints_what_the_page_shows(real_data: RealData, tmp_path: Path) -> None:
    """Ended after its first step."""
    (block,) = [block for block in blocks(PAGE, "console") if "python3 gpt.py" in block]
    with subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "gpt.py"), str(real_data("names"))], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        lines = block.splitlines()[1:]
        try:
            assert [running.stdout.readline().rstrip("\n") for _ in lines] == lines
        finally:
            running.kill()


def test_the_picture_of_the_block_has_the_shapes_of_gpt() -> None:
    root = ET.parse(ROOT / "docs/block.svg").getroot()
    drawn = {text for element in root.iter() if (text := element.text)}
    for name, matrix in gpt.init_weights(27, random.Random(0)).items():
        short = name.removeprefix("layer0.").removeprefix("attn_").removeprefix("mlp_")
        assert f"{short} {len(matrix)}×{len(matrix[0])}" in drawn


EXERCISES = re.findall(r"^\| (\d+) \| \[`([^`]+)`\]\(\.\./gpt\.py#L\d+\) \| `([^`]+)` \|$", PAGE, re.M)
ANSWERS = dict(re.findall(r"^(\d)\. (.*?)(?=^\d\. |\Z)", PAGE.split("## Answers")[1], re.M | re.S))


class Broken:
    """gpt.py with the line of an exercise changed, and the two-letter model on it."""

    def __init__(self, number: int, folder: Path) -> None:
        ((old, new),) = [(old, new) for i, old, new in EXERCISES if int(i) == number]
        assert SOURCE.count(old) == 1
        self.path = folder / f"exercise_{number}.py"
        self.path.write_text(SOURCE.replace(old, new), encoding="utf-8")
        self.answer = ANSWERS[str(number)]
        self.gpt = lesson.two_letter_gpt(self.path, self.path.stem)

    def weights(self) -> dict[str, Any]:
        return {name: [[self.gpt.Value(float(x)) for x in row] for row in w] for name, w in lesson.WEIGHTS.items()}

    def backward(self) -> tuple[dict[str, Any], float]:
        """The weights with their derivatives, and the loss, on "ab"."""
        w, cache, losses = self.weights(), [([], [])], []
        for position, (token, target) in enumerate(((2, 0), (0, 1))):
            probs = self.gpt.softmax(self.gpt.gpt(w, token, position, cache))
            losses.append(probs[target].log() * -1)
        loss = sum(losses, self.gpt.Value(0.0)) * 0.5
        loss.backward()
        return w, loss.data

    def updated(self) -> dict[str, Any]:
        """The weights after the first update."""
        w = self.weights()
        next(self.gpt.train(w, lesson.VOCAB, ["ab"], 30))
        return w

    def names(self, docs: list[str], steps: int) -> tuple[list[float], list[str]]:
        """The losses and samples of names, at the size of gpt.py."""
        for name in ("N_EMBD", "N_HEAD", "HEAD_DIM", "BLOCK_SIZE"):
            setattr(self.gpt, name, getattr(gpt, name))
        rng = random.Random(42)
        vocab = [*sorted(set("".join(docs))), gpt.BOS]
        w = self.gpt.init_weights(len(vocab), rng)
        losses = list(self.gpt.train(w, vocab, docs, steps))
        return losses, [self.gpt.sample(w, vocab, rng) for _ in range(20)]


def test_every_exercise_has_an_answer() -> None:
    assert [number for number, _, _ in EXERCISES] == [str(i) for i in range(1, 8)]
    assert [*ANSWERS] == [str(i) for i in range(1, 10)]


def test_exercise_1(tmp_path: Path, given_names: Path) -> None:
    broken = Broken(1, tmp_path)
    w, _ = broken.backward()
    whole = lesson.weights()
    lesson.step(whole)
    assert f"{lesson.vector(w['lm_head'][1], 'grad')}\n" in broken.answer
    assert f"instead of {lesson.vector(whole['lm_head'][1], 'grad')}" in broken.answer
    losses, _ = broken.names(lesson.shuffled(given_names), 40)
    assert sum(losses[-20:]) / 20 > math.log(27)  # gpt.py itself is at 2.9 then


def test_exercise_2(tmp_path: Path) -> None:
    broken = Broken(2, tmp_path)
    expected = list(lesson.gpt.train(lesson.weights(), lesson.VOCAB, ["ab"], 30))
    assert list(broken.gpt.train(broken.weights(), lesson.VOCAB, ["ab"], 30)) == pytest.approx(expected, rel=1e-9)
    broken.gpt.softmax([broken.gpt.Value(709.0)])
    with pytest.raises(OverflowError):
        broken.gpt.softmax([broken.gpt.Value(710.0)])
    assert "above\n   709" in broken.answer


def test_exercise_3(tmp_path: Path) -> None:
    broken = Broken(3, tmp_path)
    w = broken.updated()
    assert [x.data for x in w["wpe"][1]] == lesson.WEIGHTS["wpe"][1]
    assert [x.data for x in w["wpe"][0]] != lesson.WEIGHTS["wpe"][0]


def test_exercise_4(tmp_path: Path) -> None:
    broken = Broken(4, tmp_path)
    assert [x.data for x in broken.updated()["lm_head"][1]] == pytest.approx([0.015, 1.015], abs=1e-6)
    assert "by 0.015 instead of 0.01" in broken.answer


def test_exercise_5(tmp_path: Path) -> None:
    broken = Broken(5, tmp_path)
    w, loss = broken.backward()
    assert loss == lesson.step(lesson.weights())[1].data
    assert all(abs(x.grad) > 0.1 for x in w["layer0.mlp_fc1"][1])
    (_, t), _ = lesson.step(lesson.weights())
    assert f"becomes {lesson.vector(t['relu'], 'grad')}" in broken.answer


def test_exercise_6(tmp_path: Path, given_names: Path) -> None:
    _, samples = Broken(6, tmp_path).names(lesson.shuffled(given_names), 60)
    assert sum(len(sample) == 16 for sample in samples) > 15


def test_exercise_7(tmp_path: Path) -> None:
    broken = Broken(7, tmp_path)
    assert f"even lower, {lesson.number(broken.backward()[1])}," in broken.answer


def test_exercise_8() -> None:
    """test_mutants tries the fault, and that the test named here catches it."""
    (fault,) = re.findall(r"python -m tests\.mutants \"(.*)\"", PAGE)
    (mutant,) = [m for m in MUTANTS if fault in m.fault]
    assert "ds.swapaxes(-1, -2) @ q" in mutant.old


def test_exercise_9() -> None:
    (first, _), _ = lesson.step(lesson.weights())
    a, b, bos = (lesson.number(p.data) for p in first["probs"])
    assert f"a {a}, b {b}, BOS {bos}" in ANSWERS["9"]
    assert f"is {lesson.number(-math.log(first['probs'][0].data))} nats" in ANSWERS["9"]
