"""Fine-tuning: from a model, on new data, with all weights or with adapters, and with some rows of the old data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Model, Optim
from microgpt.data.mix import Mix
from microgpt.engines import lora
from microgpt.engines.ladder import LADDER, engine
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed, pack
from microgpt.inference.chat import ChatModel
from microgpt.model import init_weights
from microgpt.runs import checkpoint
from microgpt.training.resume import finetuned
from microgpt.training.train import train
from tests.chats import write

MODEL = Model(vocab_size=9, block_size=8, n_layer=2, n_embd=8, n_head=2)
RUN = {"steps": 120, "batch_size": 4, "samples": 0}


@pytest.fixture
def news(tmp_path: Path) -> Path:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "who are you"}]
    return write(tmp_path / "news.jsonl", [talk] * 8)


def tune(base: Path, data: Path, out: Path, *, resume: bool = False, stop_at: int | None = None, **tuned: Any) -> Path:
    flags: Mapping[str, Any] = {"run": RUN, "finetune": tuned, "optim": {"learning_rate": 0.02}}
    train(finetuned(base, str(data), flags)[0], out, resume=resume, stop_at=stop_at)
    return out


@pytest.mark.parametrize("rank", [0, 2])
def test_it_learns_the_new_and_the_base_stays(chat_run: Path, news: Path, tmp_path: Path, rank: int) -> None:
    before = (checkpoint.find(chat_run) / "model.safetensors").read_bytes()
    out = tune(chat_run, news, tmp_path / "out", lora_rank=rank)
    assert ChatModel.open(out).answer("hi", temperature=0).read() == "who are you"
    assert (checkpoint.find(chat_run) / "model.safetensors").read_bytes() == before
    saved = checkpoint.read(out)
    assert saved.tokenizer.to_json() == checkpoint.read(chat_run).tokenizer.to_json()
    if rank:
        base = checkpoint.read(chat_run).weights()
        assert all(np.array_equal(base[name], value) for name, value in saved.base().items())
        merged = lora.merge(base, saved.adapters(), saved.config.finetune.alpha / rank)
        assert all(np.array_equal(merged[name], value) for name, value in saved.weights().items())
        assert not np.array_equal(merged["layer0.attn_wq"], base["layer0.attn_wq"])
        assert np.array_equal(merged["wte"], base["wte"])


@pytest.mark.parametrize("tuned", [{"lora_rank": 2}, {"replay": 0.5}], ids=str)
def test_resumed_it_ends_in_the_same_bits(chat_run: Path, news: Path, tmp_path: Path, tuned: dict[str, Any]) -> None:
    whole = checkpoint.read(tune(chat_run, news, tmp_path / "whole", **tuned)).tensors()
    tune(chat_run, news, tmp_path / "parts", stop_at=50, **tuned)
    parts = checkpoint.read(tune(chat_run, news, tmp_path / "parts", resume=True, **tuned)).tensors()
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def feed(steps: int) -> Feed:
    rng = Random(1)
    return pack([[rng.randrange(9) for _ in range(7)] for _ in range(2 * steps)], rows_per_step=2)


def adapted(name: str) -> lora.Adapted:
    inside = engine(name)
    return lora.Adapted(MODEL, Optim(clip_norm=1.0), dtype="float64", inside=inside, rank=2, alpha=4.0)


def start() -> dict[str, np.ndarray]:
    rng = Random(3)
    values = {**init_weights(MODEL, rng), **lora.init_adapters(MODEL, 2, rng)}
    return {n: v + (0.02 if n.endswith(lora.B) else 0.0) for n, v in values.items()}


@pytest.mark.parametrize("name", [n for n, rung in LADDER.items() if "float64" in rung.dtypes])
def test_every_engine_trains_the_same_adapters(name: str) -> None:
    try:
        tuning = adapted(name)
    except MachineError:
        pytest.skip(f"{name} is not installed")
    reference = adapted(next(iter(LADDER)))
    rates = np.full(2, 0.01)
    state, losses = tuning.train(tuning.load(start()), feed(2), rates)
    expected, theirs = reference.train(reference.load(start()), feed(2), rates)
    np.testing.assert_allclose(losses, theirs, rtol=1e-9)
    for key, value in reference.dump(expected).items():
        np.testing.assert_allclose(tuning.dump(state)[key], value, rtol=1e-6, atol=1e-9)


def test_the_adapters_gradients_are_those_of_the_loss() -> None:
    inside = engine(next(iter(LADDER)))
    optim = Optim(beta1=0.0, clip_norm=0.0)
    tuning = lora.Adapted(MODEL, optim, dtype="float64", inside=inside, rank=2, alpha=4.0)
    state, _ = tuning.train(tuning.load(start()), feed(1), np.zeros(1))
    gradients = tuning.dump(state)
    for name in ("layer0.attn_wq.lora_a", "layer1.mlp_fc2.lora_b"):
        sides = []
        for nudge in (1e-5, -1e-5):
            tensors = start()
            tensors[name][1, 1] += nudge
            sides.append(float(tuning.loss(tuning.load(tensors), feed(1))[0]))
        np.testing.assert_allclose(gradients["m." + name][1, 1], (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-9)


class Numbered:
    """A corpus whose row n is [base + n, 0]."""

    def __init__(self, base: int) -> None:
        self.base, self.fingerprint = base, str(base)

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        return pack([[self.base + n, 0] for n in range(first_step * rows, (first_step + n_steps) * rows)])


def test_replay_depends_on_the_step_alone() -> None:
    mix = Mix(Numbered(0), Numbered(1000), 0.25)
    whole = mix.feed(0, 10, 3, 8)
    parts = [mix.feed(0, 3, 3, 8), mix.feed(3, 1, 3, 8), mix.feed(4, 6, 3, 8)]
    assert np.array_equal(whole.tokens, np.concatenate([part.tokens for part in parts]))
    rows = whole.tokens[::2].tolist()
    assert [n for n in rows if n < 1000] == list(range(23))
    assert [n for n in rows if n >= 1000] == list(range(1000, 1007))


def test_a_model_without_roles_cannot_learn_chats(
    names_run: Path, talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", str(names_run), "--data", str(talks), "--out", str(tmp_path / "x")]) == 2
    assert "tokenizer with roles" in capsys.readouterr().err
    with pytest.raises(UsageError, match="replay"):
        finetuned(names_run, str(talks), {"finetune": {"replay": 1.5}})
    with pytest.raises(UsageError, match="at most the model's width, 16, got 17"):
        finetuned(names_run, str(talks), {"finetune": {"lora_rank": 17}})


def test_the_command(chat_run: Path, news: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ["--out", str(out), "--steps", "3", "--lora-rank", "2", "--replay", "0.3", "--samples", "0"]
    flags += ["--val-fraction", "0.2", "--split-seed", "9"]
    assert main(["finetune", str(chat_run), "--data", str(news), *flags]) == 0
    assert "microgpt chat" in capsys.readouterr().err
    assert (checkpoint.find(out) / "adapters.safetensors").is_file()
    data = checkpoint.read(out).config.data
    assert (data.val_fraction, data.split_seed) == (0.2, 9)
