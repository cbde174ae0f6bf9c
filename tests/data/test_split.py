"""Held-out text: the same for runs of every seed, apart from what is trained on, or the end of the text."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Config, Data
from microgpt.data.load import load
from microgpt.data.split import split
from microgpt.runs import checkpoint

SIZES = np.arange(1, 51)


def parts(seed: int, fraction: float = 0.2, **data: object) -> tuple[list[int], list[int]]:
    train, held = split(range(50), SIZES, Data.model_validate(data), Random(seed), fraction)
    return train.tolist(), held.tolist()


def test_the_held_out_part_has_a_seed_of_its_own() -> None:
    splits = [parts(seed) for seed in (42, 1, 2)]
    assert splits[0][1] == splits[1][1] == splits[2][1]
    assert len({tuple(train) for train, _ in splits}) == 3, "the order of training is the run's"
    assert parts(1, split_seed=3)[1] != splits[1][1]
    for train, held in splits:
        assert len(held) == 10
        assert sorted(train + held) == list(range(50))


@pytest.mark.parametrize("seed", [0, 42])
def test_with_the_seed_of_the_run_it_is_the_end_of_one_shuffle(seed: int) -> None:
    """The rule of older versions, whose runs go on to the same bits."""
    order = list(range(50))
    Random(seed).shuffle(order)
    assert parts(seed, split_seed=seed) == (order[:40], order[40:])
    assert parts(seed, 0.0, split_seed=7) == (order, [])


def test_the_end_is_one_piece_of_the_texts_bytes() -> None:
    train, held = parts(1, 0.2, val_split="end")
    assert held == list(range(44, 50)), "1 + … + 44 are below 80% of 1275, 45 documents above"
    assert sorted(train) == list(range(44))
    assert train != sorted(train)
    assert parts(9, 0.2, val_split="end", split_seed=5)[1] == held
    joined = parts(1, 0.2, val_split="end", format="chunks", chunk_size=8, chunk_overlap=4)
    assert joined[1] == held
    assert sorted(joined[0]) == list(range(43)), "a chunk that shares text with the end is left out"


@pytest.mark.parametrize("rule", ["random", "end"])
def test_conversations_are_split_alike(tmp_path: Path, rule: str) -> None:
    path = tmp_path / "chats.jsonl"
    talks = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{n}"}] for n in range(10)]
    path.write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")
    data = load(Data(path=str(path), format="chat", val_split=rule), 32)  # type: ignore[arg-type]
    corpora = [data.split(Random(seed), 0.2) for seed in (1, 2)]
    held = [corpus.order[corpus.n_train :].tolist() for corpus in corpora]  # type: ignore[attr-defined]
    assert held[0] == held[1]
    assert len(held[0]) == 2
    assert (held[0] == [8, 9]) == (rule == "end")


def test_runs_of_several_seeds_are_measured_on_one_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given_names: Path
) -> None:
    """Its documents, bytes and tokens are the same; with another split seed they are not."""
    common = ["train", str(given_names), "--engine", "manual", "--n-embd", "8", "--n-head", "2", "--samples", "0"]
    common += ["--val-fraction", "0.1", "--steps", "1", "--lr", "0"]
    found = []
    for seed in ("1", "2"):
        assert main([*common, "--seed", seed, "--out", str(tmp_path / seed)]) == 0
        capsys.readouterr()
        assert main(["eval", str(tmp_path / seed), "--engine", "manual", "--samples", "0", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [found[0][key] for key in ("documents", "bytes", "tokens")] == [
        found[1][key] for key in ("documents", "bytes", "tokens")
    ]
    assert checkpoint.read(tmp_path / "1").config.data.split_seed == 42
    assert main([*common, "--seed", "1", "--split-seed", "1", "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "other"), "--engine", "manual", "--samples", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] != found[0]["bytes"]


def test_whole_configurations_without_the_key_are_of_older_versions(tmp_path: Path) -> None:
    from microgpt.commands.flags import resolve

    old, mine = tmp_path / "run.toml", tmp_path / "mine.toml"
    old.write_text('schedule_from = 0\n[data]\npath = "a.txt"\n[run]\nseed = 7\n')
    mine.write_text('[data]\npath = "a.txt"\n[run]\nseed = 7\n')
    assert Config.from_toml(old).data.split_seed == 7
    assert Config.from_toml(mine).data.split_seed == 42
    assert resolve(None, old, {"run": {"seed": 9}}).data.split_seed == 7
    assert resolve(None, mine, {"run": {"seed": 9}}).data.split_seed == 42
    again = Config.from_dict(Config.from_toml(mine).to_dict())
    assert again.data.split_seed == 42
