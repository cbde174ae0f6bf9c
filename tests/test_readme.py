"""The commands of README and of the pages with console blocks work as they stand, and the printed numbers are so."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.commands.scenarios import facts
from microgpt.engines.ladder import LADDER
from microgpt.errors import install
from microgpt.training.bench import lines_of_code
from tests.chats import conversations, write
from tests.data.scrape.site import Site

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "docs"))
import fast  # noqa: E402
import ladder  # noqa: E402


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def commands(page: str) -> list[list[str]]:
    """The microgpt commands in the console blocks of a page, in order, without their comments."""
    lines = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", "".join(blocks((ROOT / page).read_text("utf-8"), "console")), re.M)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("microgpt ")]


def quick(words: list[str]) -> list[str]:
    """A command whose training of a chat model ends early."""
    long = words[0] == "finetune" or words[:2] == ["train", "chat"]
    return [*words, "--max-time", "3s"] if long else words


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hi\n/quit\n")))
    for name in ("chats.jsonl", "more.jsonl"):
        write(tmp_path / name, conversations())
    return tmp_path


def test_the_commands_of_readme_work(
    real_data: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real_data("names")
    assert [words[0] for words in commands("README.md")] == ["train", "generate", "train", "chat"]
    first_names = [line for line in blocks(README, "console")[0].splitlines() if re.fullmatch(r"[a-z]+", line)]
    assert len(first_names) == 5
    for words in commands("README.md"):
        assert main(quick(words)) == 0, words
        printed = capsys.readouterr().out
        if words == ["train", "names"]:
            assert printed.split()[:5] == first_names
            assert len(printed.split()) == 20
        if words[0] == "generate":
            assert [line[:2] for line in printed.splitlines()] == ["em"] * 3


def test_the_commands_about_chats_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands("docs/chat.md")) == 6
    for words in commands("docs/chat.md"):
        assert main(quick(words)) == 0, f"{words}: {capsys.readouterr().err}"
        printed = capsys.readouterr().out
        if words[0] == "info":
            assert re.search(r"^base +runs/chat, fine-tuned: adapters of rank 4", printed, re.M)


def test_a_scenario_of_your_own(
    real_data: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real_data("names")
    (here / "poems.txt").write_text("a rose is a rose\n" * 20, encoding="utf-8")
    assert len(commands("docs/usage.md")) == 4
    for words in commands("docs/usage.md"):
        words, redirected = (words[:-2], words[-1]) if ">" in words else (words, None)
        assert main(words) == 0, f"{words}: {capsys.readouterr().err}"
        if redirected:
            (here / redirected).write_text(capsys.readouterr().out, encoding="utf-8")
    assert {path.name for path in (here / "runs").iterdir()} == {"mine", "mine-2", "poems"}


def test_the_commands_about_the_web_work(here: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trafilatura")
    ours = {
        "https://example.org/a": f"http://{site.host}/page/1",
        "https://example.org/b": f"http://{site.host}/page/2",
    }
    (here / "pages.txt").write_text(f"# one\n{ours['https://example.org/a']}\n", encoding="utf-8")
    assert len(commands("docs/scraping.md")) == 4
    for words in commands("docs/scraping.md"):
        asks = words[0] == "data" or "--urls" in words
        words = [ours.get(word, word) for word in words] + ["--allow-private", site.host] * asks
        assert main(words) == 0, f"{words}: {capsys.readouterr().err}"
    assert len((here / "corpus.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_more_tests_than_readme_says(request: pytest.FixtureRequest) -> None:
    said = re.search(r"more than ([\d,]+) tests", README)
    assert said
    if request.session.testscollected > 2000:  # the whole suite, and not some files of it
        assert request.session.testscollected > int(said[1].replace(",", ""))


def test_the_ladder_table_is_the_ladder() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| (.*?) \| (\d+) \|", README, flags=re.M)
    assert [name for name, _, _ in rows] == list(LADDER)
    for name, idea, lines in rows:
        assert idea == LADDER[name].idea
        assert int(lines) == lines_of_code(name), f"{name} has {lines_of_code(name)} lines"


def test_times_faster_are_those_of_the_times() -> None:
    slowest = ladder.rows()[0][2]
    for name, _, microseconds, label in ladder.rows()[1:]:
        times = int(label.split()[2].rstrip("×").replace(",", ""))
        assert times == pytest.approx(slowest / microseconds, rel=0.01, abs=0.5), name


def test_the_picture_is_the_table(tmp_path: Path) -> None:
    drawn = re.findall(r"<!-- (.*?) -->", ladder.PICTURE.read_text(encoding="utf-8"))
    for name, idea, _, label in ladder.rows():
        assert {name, idea, label} <= {*drawn}, f"{name}: run python docs/ladder.py"
    pytest.importorskip("matplotlib")
    ladder.draw(tmp_path / "again.svg")
    assert re.findall(r"<!-- (.*?) -->", (tmp_path / "again.svg").read_text(encoding="utf-8")) == drawn


def test_the_pictures_of_fast_are_its_table(tmp_path: Path) -> None:
    def texts(path: Path) -> list[str]:
        return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))

    machines = fast.table()
    assert len(machines) == 2
    for name, peak, points in machines:
        assert len(points) > 3
        assert all(6 * point.n_params / point.us_per_token < peak / 1e6 for point in points)  # none beats arithmetic
        assert {name, *fast.labels(points).values()} <= {*texts(fast.SIZES)}, "run python docs/fast.py"
    pytest.importorskip("matplotlib")
    fast.draw(tmp_path / "tiles.svg", tmp_path / "sizes.svg")
    assert texts(tmp_path / "tiles.svg") == texts(fast.TILES)
    assert texts(tmp_path / "sizes.svg") == texts(fast.SIZES)


def test_the_tree_names_every_folder() -> None:
    (tree,) = [block for block in blocks(README, "text") if "microgpt/\n" in block]
    named = re.findall(r"^( *)(\S+?)(/?)  ", tree.replace("microgpt/\n", "microgpt/  \n"), flags=re.M)
    inside = {name for indent, name, _ in named if indent}
    assert inside == {path.parent.name for path in (ROOT / "microgpt").glob("*/__init__.py")}
    for indent, name, slash in named:
        path = ROOT / ("microgpt" if indent else "") / name
        assert path.is_dir() if slash else path.is_file(), name


def test_the_sizes_of_the_results_are_those_of_the_scenarios() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|", page, flags=re.M)
    assert len(rows) >= 6
    for name, parameters, steps in rows:
        assert (f"{facts(name)['n_params']:,}", f"{facts(name)['steps']:,}") == (parameters, steps), name
    chat = (ROOT / "docs/chat.md").read_text(encoding="utf-8")
    assert f"{facts('chat')['n_params']:,} parameters" in chat


def test_the_python_examples_run(real_data: Callable[[str], Path], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_data("names")
    (example,) = blocks((ROOT / "docs/usage.md").read_text(encoding="utf-8"), "python")
    assert "microgpt.load" in example
    (here / "example.py").write_text(example, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("em")


def test_missing_parts_are_installed_from_the_checkout() -> None:
    """PyPI's `microgpt` is another project."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set()
    for path in (
        *ROOT.glob("*.md"),
        *(p for top in ("microgpt", "benchmarks", "docs") for p in (ROOT / top).rglob("*")),
    ):
        if path.suffix in (".py", ".md"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install '?microgpt", text), path
            named |= {*re.findall(r"install\('(\w+)'\)", text), *re.findall(r"-e '\.\[(\w+)\]'", text)}
    assert "scrape" in named
    assert named <= {*extras}
    assert "pip install -e '.[scrape]'" in install("scrape")
