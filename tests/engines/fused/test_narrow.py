"""Code for CPUs with narrower vectors than this one's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

numba = pytest.importorskip("numba")


NARROW = """
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
    assert e.kernels.vector == int(sys.argv[1]), e.kernels.vector

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


@pytest.mark.skipif(sys.platform == "darwin" or os.uname().machine != "x86_64", reason="names x86 machines")
@pytest.mark.parametrize(
    ("name", "features", "vector"),
    [
        ("haswell", "+sse2,+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt", 32),
        ("nehalem", "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt", 16),  # the width of NEON
    ],
)
def test_a_narrower_machine_trains_and_generates_the_same(name: str, features: str, vector: int) -> None:
    machine = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-W", "error", "-c", NARROW, str(vector)]
    subprocess.run(command, check=True, env={**os.environ, **machine})
