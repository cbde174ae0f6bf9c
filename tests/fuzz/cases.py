"""The cases: every flag of every command with extreme values, every file with every damage, and random pairs of flags.

The flags come from the command line itself, so a new one is tried without being listed here.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import App

from microgpt.cli import app
from tests.fuzz import damages
from tests.fuzz.folder import FOREIGN, RUNS, SPECIAL, TEXTS, TINY, add_special

BIG = ("10000000000", "1" + "0" * 30, "9" * 400, *(str(2**n + d) for n in (31, 32, 53, 63, 64) for d in (-1, 0)))
ODD = ("", " ", "-0", "007", "0x10", "1_000", "1.5", "1e3", "nan", "-inf", "ten", "٣", "½", "--", "1,2", "\udcff")
INTEGERS = ("0", "1", "-1", "2", "3", "7", "255", *BIG, "-9223372036854775809", *ODD)
FLOATS = ("0", "-0.0", "1", "2", "-1", "0.5", "99", "1e-8", "5e-324", "1e-320", "1e-45", "1e38", "3.5e38", "1e154",
          "1e300", "1e308", "-1e308", "1e309", "inf", *BIG[:3], *ODD)  # fmt: skip
TEXT = ("", " ", "\n", "\t\r\n", "-", "--", "---", "=", ".", "..", "/", "~", "$HOME", "%s%n%x", "{}", "{0.__class__}",
        "null", "5", "True", "nan", "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\u202eabc", "\ufeff",
        "[bold]x[/bold]", "[/]", "[link=file:///]x", "💥", "\udcff", "e\u0301" * 50, "x" * 300, "x" * 100_000,
        "../../x", "a/b/c", "run/run.toml", "[", "**", "*.txt", "?" * 50, "http://[", "file:///etc/passwd",
        "http://127.0.0.1:9/", "names", "auto", "float16", "char", "bpe")  # fmt: skip
PATHS = (*TEXT, *SPECIAL, *RUNS, *FOREIGN, *TEXTS, "settings.toml", "tokenizer.json", "/dev/null", "/dev/full",
         "/proc/self/x", "names.txt/x", "missing/x", "run/checkpoints", "run/latest", "chat/run.toml")  # fmt: skip
ADDRESSES = ("http://", "http://a b/", "http://x:99999/", "ftp://x/", "javascript:1", "http://user:pass@x/",
             "http://0x7f.1/", "http://[::1]:9/", "http://xn--/", "http://" + "x." * 200, "::1:9",
             "[::1]:9", *TEXT)  # fmt: skip
SWITCH = ("", "=true", "=0", "=maybe", "=")  # written behind the name: of other flags, no value and an empty one

# The words that each command is tried with beside the flag; flags that are given twice fail, so the flag replaces them.
BASE: dict[str, list[str]] = {
    "train": ["train", "--data", "names.txt", "--out", "new", "--steps", "1", "--samples", "1", "--n-embd", "4",
              "--n-head", "2", "--block-size", "8", "--batch-size", "2", *TINY],
    "generate": ["generate", "run", "-n", "1", "--max-tokens", "2", *TINY],
    "chat": ["chat", "chat", "--prompt", "hi", "--max-tokens", "2", *TINY],
    "finetune": ["finetune", "run", "--data", "names.txt", "--out", "new", "--steps", "1", "--samples", "0", *TINY],
    "eval": ["eval", "run", "--data", "names.txt", "--samples", "1", *TINY],
    "serve": ["serve", "run", "--port", "0", *TINY],
    "info": ["info", "run"],
    "compare": ["compare", "run", "chat"],
    "runs list": ["runs", "list", "run", "chat"],
    "runs compare": ["runs", "compare", "run", "chat"],
    "runs plot": ["runs", "plot", "run"],
    "runs best": ["runs", "best", "run"],
    "runs rm": ["runs", "rm", "new"],
    "sweep": ["sweep", "names.txt", "--set", "run.steps=1", "--out", "new", "--workers", "1"],
    "scaling": ["scaling", "names.txt", "--widths", "4", "--out", "new"],  # too few, so none is trained
    "export": ["export", "run", "--to", "safetensors", "--out", "new", "--no-quality"],
    "import": ["import", "model-hf", "--out", "new"],
    "bench": ["bench", "names", "--steps", "1", *TINY],
    "doctor": ["doctor"],
    "scenarios": ["scenarios"],
    "scenarios show": ["scenarios", "show", "names"],
    "data list": ["data", "list"],
    "data fetch": ["data", "fetch", "tinyshakespeare"],
    "data scrape": ["data", "scrape", "http://127.0.0.1:9/", "--out", "new"],
    "data tokenize": ["data", "tokenize", "names.txt", "--tokenizer", "tokenizer.json", "--out", "new"],
    "tokenizer train": ["tokenizer", "train", "names.txt", "--vocab-size", "260", "--out", "new"],
    "tokenizer encode": ["tokenizer", "encode", "--tokenizer", "tokenizer.json"],
    "tokenizer decode": ["tokenizer", "decode", "--tokenizer", "tokenizer.json"],
    "tokenizer show": ["tokenizer", "show", "ada", "--tokenizer", "tokenizer.json"],
}  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """A change to one file of the folder before the command runs."""

    path: str
    name: str
    apply: Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A command, after a damage or none."""

    words: tuple[str, ...]
    damage: Damage | None = None

    @property
    def long(self) -> bool:
        """Whether the flags may ask for more work than the time allows: then SIGTERM must end it."""
        return self.damage is None

    def prepare(self, folder: Path) -> None:
        """Damage the file, and make the special files that the command names."""
        if self.damage:
            self.damage.apply(folder / self.damage.path)
        for word in {word.partition("=")[2] or word for word in self.words} & {*SPECIAL}:
            add_special(folder, word)

    def __str__(self) -> str:
        words = shlex.join(
            word if len(word) < 200 else f"{word[:20]}...({len(word)} characters)" for word in self.words
        )
        return f"microgpt {ascii(words)[1:-1]}" + (f"  # {self.damage.path}: {self.damage.name}" if self.damage else "")


def commands(tree: App = app, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and its arguments."""
    for name in tree:
        if name.startswith("-"):
            continue
        below = tree[name]
        yield from commands(below, (*words, name))
        if below.default_command:
            yield " ".join((*words, name)), below.assemble_argument_collection()


def values(hint: Any, name: str) -> tuple[str, ...]:
    """Extreme values of an argument's type."""
    shown = str(hint)
    if "bool" in shown:
        return SWITCH
    if name == "--processes":  # none that starts any: each would import PyTorch
        return tuple(text for text in (*TEXT, *INTEGERS) if text not in ("auto", "007") and not text.isdecimal())
    if "int" in shown:
        return INTEGERS
    if "float" in shown:
        return FLOATS
    if any(part in name.lower() for part in ("url", "private")):
        return ADDRESSES
    paths = ("path", "data", "tokenizer", "source", "run", "out")
    return PATHS if "Path" in shown or any(part in name for part in paths) else TEXT


def flags() -> list[tuple[str, tuple[str, ...], str]]:
    """(command, names, value) of every flag; the names of a positional argument are empty."""
    found = []
    for command, arguments in commands():
        for argument in arguments:
            if argument.names[0] == "*" or argument.children:  # its fields are arguments of their own
                continue
            names = () if argument.field_info.is_positional else tuple(argument.names)
            found += [(command, names, value) for value in values(argument.hint, argument.names[0])]
    return found


def with_flag(words: Sequence[str], names: tuple[str, ...], value: str, first: int) -> tuple[str, ...]:
    """The words with a flag set, in place of the base's own; `first` is where the positional argument stands."""
    out = list(words)
    if not names:
        tail = [word for word in out[first:] if word.startswith("--")][:1]
        end = out.index(tail[0]) if tail else len(out)
        out[first:end] = [value]
        return tuple(out)
    for name in names:
        if name in out:
            at = out.index(name)
            has_value = at + 1 < len(out) and not out[at + 1].startswith("--")
            del out[at : at + 1 + has_value]
    return (*out, names[0] + value if value in SWITCH else f"{names[0]}={value}")


def flag_case(command: str, *given: tuple[tuple[str, ...], str]) -> Case:
    """One command with some of its flags set."""
    words: tuple[str, ...] = tuple(BASE[{"sample": "generate"}.get(command, command)])
    for names, value in given:
        words = with_flag(words, names, value, len(command.split()))
    return Case(words)


def readers(path: str) -> list[list[str]]:
    """The commands that read a file of the folder."""
    top = path.split("/")[0]
    if top in RUNS:
        verbs: list[list[str]] = [["info", top], ["info", top, "--json"], ["generate", top, "-n", "1", "--json", *TINY]]
        verbs += [["eval", top, "--samples", "1", "--data", "names.txt", *TINY]]
        verbs += [["export", top, "--to", to, "--out", "new", "--no-quality"] for to in ("safetensors", "hf", "kgx")]
        more = ["--out", "new", "--steps", "1", "--samples", "0", *TINY]
        verbs += [["finetune", top, "--data", "talks.jsonl" if top == "chat" else "names.txt", *more]]
        if top == "chat":
            verbs += [["chat", top, "--prompt", "hi", "--max-tokens", "2", *TINY]]
        if top in ("run", "chat"):
            verbs += [["train", "--resume", "--out", top], ["train", "--extend", "1", "--out", top]]
        return verbs
    if top in FOREIGN:
        return [["import", top, "--out", "new"], ["info", top], ["generate", top, "-n", "1"]]
    if top == "tokenizer.json":
        trained = [*BASE["train"], "--tokenizer", top]
        return [BASE["tokenizer show"], BASE["tokenizer encode"], BASE["tokenizer decode"], trained]
    if top == "settings.toml":
        return [["train", "names", "--data", "names.txt", "--config", top, "--out", "new", *TINY]]
    if top == "prompts.txt":
        return [["generate", "run", "--prompt-file", top, "-n", "1", *TINY]]
    if top == "urls.txt":
        return [["data", "scrape", "--url-file", top, "--out", "new"]]
    replaced = with_flag(BASE["train"], ("--data",), top, 1)
    held_out = (*BASE["train"], "--val-data", top)
    return [list(words) for words in (replaced, held_out, ["tokenizer", "train", top, "--out", "new"],
                                      ["eval", "run", "--data", top, "--samples", "1", *TINY],
                                      ["finetune", "run", "--data", top, "--out", "new", "--steps", "1", *TINY],
                                      ["export", "run", "--to", "hf", "--out", "new", "--data", top])]  # fmt: skip


def cases(start: Path, seed: int) -> Iterator[Case]:
    """All cases in the order of the seed, without end: every flag with every value and every file with every damage,
    read by one of the commands that read it, shuffled; then random pairs of flags, and damages read by the others.

    So any beginning is a sample of everything, and a case is known by the seed and its number.
    """
    every = flags()
    files = sorted(str(path.relative_to(start)) for path in start.rglob("*") if path.is_file())
    files = [file for file in files if not file.startswith("cache/")]
    table = [flag_case(command, (names, value)) for command, names, value in every]
    rng = random.Random(seed)
    for file in files:
        for name, apply in damages.of(start / file, f"{seed} {file}"):
            table.append(Case(tuple(rng.choice(readers(file))), Damage(file, name, apply)))
    rng.shuffle(table)
    yield from table
    by_command: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for command, names, value in every:
        by_command.setdefault(command, []).append((names, value))
    named = [command for command, found in by_command.items() for _ in range(min(len(found), 500))]
    while True:
        if rng.random() < 0.5:
            command = rng.choice(named)
            yield flag_case(command, *rng.sample(by_command[command], 2))
        else:
            file = rng.choice(files)
            name, apply = rng.choice(list(damages.of(start / file, f"{seed} {file} {rng.random()}")))
            yield Case(tuple(rng.choice(readers(file))), Damage(file, name, apply))
