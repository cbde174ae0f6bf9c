"""Code for other CPUs than this one: the same numbers, or the fallback where they lack instructions.

In full: tests/cpus.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("numba")

from tests.cpus import CPUS

NAMES = """
import sys
import numpy as np
from pathlib import Path
from random import Random
from microgpt.data import datasets
from microgpt.config import Model, Optim
from microgpt.engines.common.hardware import cpu
from microgpt.engines.ladder import engine
from microgpt.feed import pack
from microgpt.model import init_weights

assert cpu()["name"] == sys.argv[1], cpu()
assert cpu()["vector_bits"] == 8 * int(sys.argv[2]), cpu()
assert not cpu()["bfloat16"], cpu()
names = Path(datasets.__file__).with_name("given_names.txt").read_text().split()[:60]
feed = pack([[26, *(ord(letter) - ord("a") for letter in name.lower()), 26] for name in names], rows_per_step=3)
for dtype, n_embd in (("float32", 16), ("bfloat16", 32)):
    model, rates = Model(vocab_size=27, n_embd=n_embd), np.full(20, 0.01)
    ours, manual = engine("fused")(model, Optim(), dtype=dtype), engine("manual")(model, Optim(), dtype="float32")
    assert (ours.kernels.vector, ours.bf16) == (int(sys.argv[2]), False)
    assert ("this CPU has no" in (ours.remark(model, dtype) or "")) == (dtype == "bfloat16")
    found = [e.train(e.load(init_weights(model, Random(42))), feed, rates)[1] for e in (ours, manual)]
    np.testing.assert_allclose(*found, rtol=1e-5)
    found = [e.logits(e.load(init_weights(model, Random(42))), feed.tokens[:7])[0] for e in (ours, manual)]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)
"""
SMALL = """
import sys
import numpy as np
from random import Random
from microgpt.config import Model, Optim
from microgpt.engines.ladder import engine
from microgpt.feed import pack
from microgpt.inference.generate import generate_tokens
from microgpt.inference.sampling import Sampling
from microgpt.model import init_weights

SMALL = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "init_std": 0.4}
MODERN = {"position": "rope", "activation": "gelu", "tie_embeddings": True, "qk_norm": True, "final_norm": True}
feed = pack([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 3], [4, 4, 4]] * 2, rows_per_step=3)
prompts, uniform = [[1], [2, 3], [4, 5, 6]] * 9, np.random.default_rng(0).random((27, 9))
flat, offsets = np.concatenate(prompts), np.cumsum([0, *map(len, prompts)])
for options in ({"n_head": 3, "n_embd": 18, **MODERN}, {"n_head": 4, "n_embd": 16}):
    model = Model(**SMALL, **options)
    tensors = init_weights(model, Random(0))
    results = []
    for name in ("manual", "fused"):
        e = engine(name)(model, Optim(), dtype="float64")
        state = e.load(tensors)
        state, losses = e.train(state, feed, np.full(2, 0.01))
        weights = e.dump(state)
        logits, cache = e.logits(e.load(tensors), np.arange(3))
        more, cache = e.logits(e.load(tensors), np.array([7]), cache)
        results.append((losses, logits, more, *weights.values()))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert e.kernels.vector == int(sys.argv[2]), e.kernels.vector

    class Given(Random):
        def random(self):
            return next(self.numbers)

    plain, state = engine("manual")(model, Optim(), dtype="float64"), e.load(tensors)
    found, ends, _ = e.generate(state, flat, offsets, 9, 0.7, uniform, 10)
    turn, turn_ends, used = e.generate(state, flat, offsets, 9, 0.7, uniform.ravel(), 10)
    in_turn = Given(0)
    in_turn.numbers = iter(uniform.ravel().tolist())
    for i, prompt in enumerate(prompts):
        given = Given(0)
        given.numbers = iter(uniform[i].tolist())
        want = list(generate_tokens(plain, plain.load(tensors), prompt, 9, Sampling(0.7), given, 10))
        assert found[ends[i] : ends[i + 1]].tolist() == want, i
        if i + 1 < len(turn_ends):
            want = list(generate_tokens(plain, plain.load(tensors), prompt, 9, Sampling(0.7), in_turn, 10))
            assert turn[turn_ends[i] : turn_ends[i + 1]].tolist() == want, i
"""


def run(script: str, name: str) -> None:
    """A script in a process that compiles for a CPU; its arguments are the name and the bytes of a vector."""
    command = [sys.executable, "-W", "error", "-c", script, name, str(CPUS[name].vector_bytes)]
    subprocess.run(command, check=True, env={**os.environ, **CPUS[name].environment})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each type is compiled for a quarter of a minute: one per CPU, or with --long both for the narrower ones."""
    long = metafunc.config.getoption("--long")
    names = {"float32": ["cascadelake", "x86-64", *["haswell"] * long], "float64": ["haswell", *["x86-64"] * long]}
    for dtype in names.keys() & metafunc.fixturenames:
        marked = [
            (name, pytest.mark.hardware(CPUS[name].runs_here, f"instructions of {name}")) for name in names[dtype]
        ]
        metafunc.parametrize(dtype, [pytest.param(name, marks=mark) for name, mark in marked])


def test_names_trained_for_another_cpu_are_those_of_the_manual_pass(float32: str) -> None:
    """In float32, and asked for bfloat16, which falls back to float32's own code."""
    run(NAMES, float32)


def test_a_narrower_machine_trains_and_writes_the_same(float64: str) -> None:
    """In float64, bit for bit where tokens are drawn."""
    run(SMALL, float64)
