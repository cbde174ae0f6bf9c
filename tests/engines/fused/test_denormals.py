"""Floats too small to be normal: flushed to zero in float32 and bfloat16, kept in float64; the caller's mode stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

import llvmlite.binding as llvm  # noqa: E402
from llvmlite import ir  # noqa: E402
from numba import types  # noqa: E402

from microgpt.config import Model, Optim  # noqa: E402
from microgpt.engines.fused import Engine  # noqa: E402
from microgpt.engines.fused.jit import code  # noqa: E402
from microgpt.engines.fused.jit.functions import builder  # noqa: E402
from microgpt.engines.fused.simd import float_mode  # noqa: E402
from microgpt.feed import pack  # noqa: E402
from microgpt.model import Tensors, init_weights  # noqa: E402

KEEPING, FLUSHING = (float_mode.kernel_mode(flushing) for flushing in (False, True))
pytestmark = pytest.mark.hardware(KEEPING is not None, "a floating-point mode known here: x86-64 or ARM")

DTYPES = ["float32", "bfloat16", "float64"]
X86 = float_mode.MODES.get(float_mode.architecture()) is float_mode.X86
UP = 1 << 14 if X86 else 1 << 22  # round up instead of to the nearest
FLAGS = 0x3F if X86 else 0  # what happened so far, which any operation may set
MODEL = Model(vocab_size=27, n_embd=32)
FEED = pack([[26, 4, 12, 12, 0, 26], [26, 0, 21, 0, 26]] * 3, rows_per_step=2)


@builder
def _read(typing: Any) -> Any:
    return types.int64(), lambda context, b, sig, args: float_mode.read(b)


@builder
def _write(typing: Any, value: Any) -> Any:
    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        float_mode.write(b, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@numba.njit
def mode() -> int:
    """That of this thread."""
    return _read()


@numba.njit
def set_mode(value: int) -> None:
    _write(value)


def watched(e: Engine, given: int) -> list[int]:
    """Let each kernel of an engine be called in the mode `given`; the modes found after its calls."""
    found: list[int] = []

    def watch(kernel: Callable[..., int]) -> Callable[..., int]:
        def call(*args: float) -> int:
            before = mode()
            set_mode(given)
            try:
                result = kernel(*args)
                after = mode()
            finally:
                set_mode(before)
            found.append(after & ~FLAGS)
            return result

        return call

    e.kernels = e.kernels._replace(**{name: watch(getattr(e.kernels, name)) for name in code.NAMES})
    return found


def everything(e: Engine) -> tuple[np.ndarray, ...]:
    """What every kernel makes of a model: each is called at least once."""
    tensors = init_weights(MODEL, Random(1))
    state, losses = e.train(e.load(tensors), FEED, np.full(3, 0.01))
    logits, cache = e.logits(state, np.arange(5))
    uniform, prompts, offsets = np.random.default_rng(0).random((20, 16)), np.full(20, 26), np.arange(21)
    one = e.generate(state, prompts, offsets, 16, 0.7, uniform.ravel(), 26)[0]
    many = e.generate(state, prompts, offsets, 16, 0.7, uniform, 26)[0]
    more = e.logits(state, np.arange(2), cache)[0]
    return losses, e.loss(state, FEED), logits, more, one, many, *e.dump(state).values()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_has_a_mode_of_its_own_and_leaves_its_callers(dtype: str, threads: int) -> None:
    """Whatever the caller's is, the numbers are the same bits, and each thread has its mode back."""
    want = everything(Engine(MODEL, Optim(), dtype=dtype, threads=threads))
    for given in (KEEPING, FLUSHING, KEEPING | UP):
        e = Engine(MODEL, Optim(), dtype=dtype, threads=threads)
        after = watched(e, given)
        for ours, theirs in zip(everything(e), want, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert after == [given] * (2 * threads + 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_that_ends_early_leaves_its_callers_mode(dtype: str) -> None:
    for threads in (1, 2):
        e = Engine(MODEL, Optim(), dtype=dtype, threads=threads)
        after = watched(e, KEEPING | UP)
        tensors = init_weights(MODEL, Random(1))
        tensors["wte"][26] = np.nan
        _, losses = e.train(e.load(tensors), FEED, np.full(3, 0.01))
        assert np.isnan(losses).tolist() == [True]
        assert after == [KEEPING | UP] * threads


def least(dtype: str) -> float:
    """The smallest normal number."""
    return float(np.finfo("float64" if dtype == "float64" else "float32").tiny)


def unmoved(moments: float) -> tuple[Model, Tensors]:
    """A model of which half of the weights have no gradient at all, for what they make is multiplied by zero."""
    model = MODEL.model_copy(update={"residual_init": "zero"})
    tensors = init_weights(model, Random(1))
    both = {f"{part}.{name}": np.full(w.shape, moments) for name, w in tensors.items() for part in "mv"}
    return model, tensors | both


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_is_flushed_on_every_thread_and_kept_in_float64(dtype: str, threads: int) -> None:
    """Moments that are normal before the step and no longer after it."""
    model, tensors = unmoved(1.05 * least(dtype))
    e = Engine(model, Optim(beta1=0.9, beta2=0.9), dtype=dtype, threads=threads)
    found = e.dump(e.train(e.load(tensors), FEED, np.zeros(1))[0])
    want = 0.945 * least(dtype) if dtype == "float64" else 0.0
    for name in ("attn_wq", "attn_wk", "attn_wv", "mlp_fc1"):  # in both halves of the weights, which threads share out
        for part in "mv":
            np.testing.assert_allclose(found[f"{part}.layer0.{name}"], want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_operand_is_flushed_in_every_kernel_and_kept_in_float64(dtype: str) -> None:
    """With a head of zeros but for one token's denormals: that is the likeliest, or if flushed the first."""
    model, kept = MODEL.model_copy(update={"norm_embedding": False}), dtype == "float64"
    tensors = init_weights(model, Random(1))
    tensors["wte"][:] = 1e10  # so that the logit itself is normal
    tensors["lm_head"][:] = 0.0
    tensors["lm_head"][5] = 0.01 * least(dtype)
    e = Engine(model, Optim(), dtype=dtype)
    state = e.load(tensors)
    assert (e.logits(state, np.array([26]))[0][0, 5] > least(dtype)) == kept
    likeliest = [5 if kept else 0]
    for numbers in (np.zeros(1), np.zeros((1, 1))):
        assert e.generate(state, np.array([26]), np.array([0, 1]), 1, 0.0, numbers, -1)[0].tolist() == likeliest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_full_of_denormals_costs_no_more_than_another(dtype: str) -> None:
    """At most 1.2 times the CPU time. Where denormals are not flushed, Intel's CPUs take more than twice as long.

    Other work on the machine only makes a run longer, so the shortest of many is compared, both kinds in turn; and of
    more, until they are near each other or the time is up.
    """
    feed = pack([[26, *(3 * i + j for j in range(8)), 26] for i in range(6)] * 30)
    states, best = {}, {}
    for kind, moments in (("denormal", 0.01 * least(dtype)), ("normal", 0.1)):
        model, tensors = unmoved(moments)
        for name in ("attn_wq", "attn_wk", "mlp_fc1"):
            tensors[f"layer0.{name}"] = np.full_like(tensors[f"layer0.{name}"], moments)
        states[kind], best[kind] = tensors, np.inf
    e, rates = Engine(model, Optim(), dtype=dtype, threads=1), np.zeros(feed.n_steps)
    started = time.monotonic()
    for turn in range(10_000):
        for kind, tensors in states.items():
            state = e.load(tensors)
            begin = time.thread_time_ns()
            e.train(state, feed, rates)
            best[kind] = min(best[kind], time.thread_time_ns() - begin)
        if time.monotonic() - started > 10 or (turn > 10 and best["denormal"] <= 1.1 * best["normal"]):
            break
    assert best["denormal"] <= 1.2 * best["normal"]


@pytest.mark.parametrize(
    ("triple", "register"),
    [
        ("x86_64-unknown-linux-gnu", ["stmxcsr", "ldmxcsr", "callq", "ldmxcsr"]),
        ("aarch64-unknown-linux-gnu", ["mrs", "msr", "bl", "msr"]),
        ("arm64-apple-macosx", ["mrs", "msr", "bl", "msr"]),
    ],
)
def test_the_mode_is_set_around_a_kernel(triple: str, register: list[str]) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module(triple)
    outside, kernel = (ir.Function(module, ir.FunctionType(ir.VoidType(), []), name) for name in ("outside", "kernel"))
    b = ir.IRBuilder(outside.append_basic_block())
    machine = triple.partition("-")[0]
    before = float_mode.enter(b, True, machine)
    b.call(kernel, [])
    float_mode.leave(b, before, machine)
    b.ret_void()
    parsed = llvm.parse_assembly(f'target triple = "{triple}"\n' + str(module).partition("\n\n")[2])
    made = llvm.Target.from_triple(triple).create_target_machine().emit_assembly(parsed)
    words = [line.split()[0] for line in made.splitlines() if line.startswith("\t") and line.split()]
    assert [word.replace("blr", "bl") for word in words if word.replace("blr", "bl") in register] == register


def test_a_machine_whose_mode_is_not_known_is_left_alone() -> None:
    b = ir.IRBuilder(ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f").append_basic_block())
    float_mode.leave(b, float_mode.enter(b, True, "riscv64"), "riscv64")
    assert not b.block.instructions
