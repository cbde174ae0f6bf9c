"""Products of pairs of bfloat16s: rounded, arranged, multiplied; and what training with them differs by."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.config import Model, Optim  # noqa: E402
from microgpt.engines.fused.simd import bfloat16, intrinsics, matmul  # noqa: E402
from microgpt.engines.ladder import engine  # noqa: E402
from microgpt.feed import pack  # noqa: E402
from microgpt.model import init_weights  # noqa: E402
from microgpt.runs import tensors  # noqa: E402
from tests.engines.fused.arrays import in_panels, lanes_of, pointer, random  # noqa: E402

_rows = numba.njit(bfloat16.rows_bf16)


@numba.njit
def _pairs(x: Any, y: Any, workspace: Any, M: int, N: int, i: int, count: int, which: int) -> None:
    if which == 0:
        bfloat16.pair_along(pointer(x), N, pointer(y), N // 2, M, N)
    elif which == 1:
        bfloat16.pair_down(pointer(x), N, pointer(y), N, M, N)
    elif which == 2:
        _rows(pointer(x), N, M, count, pointer(y))
    else:
        bfloat16.pair_rows(pointer(x), pointer(workspace), pointer(y), M, N, i, count)


@numba.njit
def _of_pairs(columns: bool, a: Any, lda: int, w: Any, c: Any, M: int, K: int, N: int) -> None:
    if columns:
        matmul.multiply_columns(pointer(a), lda, pointer(w), N, pointer(c), N, M, K, N, False)
    else:
        matmul.multiply(pointer(a), lda, pointer(w), N, pointer(c), N, M, K, N, False)


@pytest.mark.hardware(intrinsics.has_bfloat16(), "products of bfloat16s: AVX-512 BF16")
def test_pairs_of_bfloat16_are_rounded_arranged_and_multiplied() -> None:
    rounded = lambda x: tensors.from_bfloat16(tensors.to_bfloat16("x", x)).reshape(x.shape)  # noqa: E731
    W = lanes_of("float32")
    for M, N in ((2, 2 * W), (7, 4 * W), (3 * W, 2 * W)):
        x, w = random(M, N, dtype="float32"), random(N, 3 * W, dtype="float32", seed=1)
        workspace, along = (np.zeros(M * N + W * W, np.uint32) for _ in range(2))
        _pairs(x.ravel(), along, workspace, M, N, 0, 0, 0)
        np.testing.assert_array_equal(tensors.from_bfloat16(along[: M * N // 2].view(np.uint16)), rounded(x).ravel())
        short = x.copy()
        short[:, N - 3 :] = np.nan
        _pairs(short.ravel(), workspace, workspace, M, N, 0, N - 3, 2)
        short[:, N - 3 :] = 0.0
        np.testing.assert_array_equal(
            tensors.from_bfloat16(workspace[: M * N // 2].view(np.uint16)), rounded(short).ravel()
        )
        pairs = np.zeros(N * 3 * W // 2, np.uint32)
        _pairs(w.ravel(), pairs, workspace, N, 3 * W, 0, 0, 1)
        c = np.zeros((M, 3 * W), np.float32)
        _of_pairs(False, along, N // 2, pairs, c.ravel(), M, N // 2, 3 * W)
        np.testing.assert_allclose(c, rounded(x) @ rounded(w), rtol=0, atol=1e-4)
    x = random(4 * W, 2 * W, dtype="float32")
    bits, workspace = np.zeros(2 * W * W, np.uint32), np.zeros(2 * W * W, np.uint32)
    _pairs(in_panels(x), bits, workspace, 4 * W, 2 * W, W, 2 * W, 3)
    want = rounded(x[W : 3 * W]).T
    np.testing.assert_array_equal(tensors.from_bfloat16(bits.view(np.uint16)).reshape(W, 2 * W, 2)[..., 0], want[::2])
    np.testing.assert_array_equal(tensors.from_bfloat16(bits.view(np.uint16)).reshape(W, 2 * W, 2)[..., 1], want[1::2])


def test_bfloat16_trains_as_float32_within_its_rounding() -> None:
    """Losses, gradients and logits; where the CPU or the width does not allow for it, bit for bit as float32."""
    given = (32, "learned", 2, 40), (96, "rope", 2, 90), (64, "learned", 64, 90), (48, "rope", 2, 40)
    for n_embd, position, least, block in given:
        options = {"vocab_size": 45, "block_size": block, "n_layer": 2, "n_head": 4, "n_embd": n_embd}
        model = Model(**options, position=position, activation="gelu", tie_embeddings=position == "rope")
        rng, tensors = Random(3), init_weights(model, Random(1))
        feed = pack(
            [[rng.randrange(45) for _ in range(rng.randrange(least, block) + 1)] for _ in range(12)], rows_per_step=4
        )
        found = {}
        for dtype in ("float32", "bfloat16"):
            e = engine("fused")(model, Optim(beta1=0.0), dtype=dtype)
            logits = e.logits(e.load(tensors), feed.tokens[:9])[0]
            one, tokens = e.logits(e.load(tensors), feed.tokens[:8]), feed.tokens[8:9]
            np.testing.assert_allclose(e.logits(e.load(tensors), tokens, one[1])[0][0], logits[8], rtol=0, atol=0.02)
            state, losses = e.train(e.load(tensors), feed, np.full(3, 1e-3))
            found[dtype] = (e, losses, logits, e.dump(state))
        (e, *ours), (_, *exact) = found["bfloat16"], found["float32"]
        assert e.bf16 == (intrinsics.has_bfloat16() and n_embd % 32 == 0)
        assert (e.remark(model, "bfloat16") is None) == e.bf16
        far = [np.abs(ours[i] - exact[i]).max() / np.abs(exact[i]).max() for i in range(2)]
        far += [np.abs(ours[2][k] - g).max() / np.abs(g).max() for k, g in exact[2].items() if k.startswith("m.")]
        assert max(far) <= 0.03
        assert (min(far) > 0) == e.bf16
