"""Only the pytorch rung has these: devices, bfloat16, and a thread count that belongs to the whole process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from microgpt.config import Optim
from microgpt.engines.common.arrays import dropout_masks
from microgpt.engines.ladder import choose, engine
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed, pack
from tests.engines.ladder import CASES, moments, small, weights

torch = pytest.importorskip("torch")
from microgpt.engines import pytorch  # noqa: E402
from microgpt.engines.pytorch.determinism import fix_workspace  # noqa: E402
from microgpt.engines.pytorch.forms import Form, dropout  # noqa: E402


def test_torch_is_an_alias() -> None:
    assert engine("torch") is engine("pytorch")


def test_auto_takes_the_first_device_that_is_here() -> None:
    assert choose(small(), Optim(), name="torch").device == pytorch.devices()[0]


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "devices", lambda: ("cpu",))
    with pytest.raises(UsageError, match="finds no cuda on this machine, only cpu"):
        choose(small(), Optim(), name="torch", device="cuda")
    with pytest.raises(MachineError, match="--device cuda:1: not on this machine; PyTorch finds cpu here"):
        engine("torch")(small(), Optim(), dtype="float32", device="cuda:1")


def test_mps_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "devices", lambda: ("mps", "cpu"))
    with pytest.raises(UsageError, match="--dtype float64"):
        engine("torch")(small(), Optim(), dtype="float64", device="mps")


def test_threads_are_put_back() -> None:
    it = engine("torch")(small(), Optim(), dtype="float32", threads=3)
    before, seen = torch.get_num_threads(), []
    original = pytorch.hidden

    def spy(*args: object, **options: object) -> object:
        seen.append(torch.get_num_threads())
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch, "hidden", spy)
        it.loss(it.load(weights(small())), pack([[1, 2, 3]]))
    assert (seen, torch.get_num_threads()) == ([3], before)


@pytest.mark.parametrize("before", [False, True])
def test_algorithms_are_put_back(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deterministic ones within a call, also one that fails; the caller's own settings after it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "the user's")
    fix_workspace()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == "the user's"
    it, seen = engine("torch")(small(), Optim(), dtype="float32"), []
    it.form = it.form._replace(deterministic=True)  # type: ignore[attr-defined]

    def settings() -> tuple[bool, bool, bool]:
        only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
        fills = torch.utils.deterministic.fill_uninitialized_memory
        return torch.are_deterministic_algorithms_enabled(), only_warns, fills

    def failing(*args: object, **options: object) -> object:
        seen.append(settings())
        raise ZeroDivisionError

    monkeypatch.setattr(pytorch, "hidden", failing)
    try:
        torch.use_deterministic_algorithms(before, warn_only=before)
        for call in (it.loss, lambda state, feed: it.train(state, feed, np.zeros(1))):
            with pytest.raises(ZeroDivisionError):
                call(it.load(weights(small())), pack([[1, 2, 3]]))
        assert seen == [(True, False, False)] * 2
        assert settings() == (before, before, True)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("asked", [True, False])
def test_a_gpu_is_deterministic_unless_it_is_told_not_to_be(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `run.deterministic` and the ladder, which tells no engine that has no GPU."""
    told: list[bool] = []

    def form_of(kind: str, dtype: str, deterministic: bool) -> Form:
        told.append(deterministic)
        return Form()

    monkeypatch.setattr(pytorch, "form_of", form_of)
    for name in ("torch", "manual"):
        choose(small(), Optim(), name=name).build(small(), Optim(), deterministic=asked)
    assert told == [asked]


def test_bfloat16_keeps_weights_and_moments_in_float32() -> None:
    it = engine("torch")(small(), Optim(), dtype="bfloat16")
    state, _ = it.train(it.load(weights(small())), pack([[1, 2, 3]]), np.full(1, 1e-5))
    dumped = it.dump(state)
    assert {a.dtype for a in dumped.values()} == {np.dtype("float32")}
    changed = dumped["lm_head"] - weights(small())["lm_head"].astype(np.float32)
    assert 0 < np.abs(changed).max() < 2e-5  # a step that bfloat16 weights of 0.3 would not notice


def test_training_works_after_the_loss_was_evaluated() -> None:
    """A rotation that was made without gradients must serve with them."""
    model = small(family="modern")
    it = engine("torch")(model, Optim(), dtype="float32")
    state = it.load(weights(model))
    it.loss(state, pack([[1, 2, 3]]))
    _, losses = it.train(state, pack([[1, 2, 3]]), np.full(1, 0.01))
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(("rate", "steps"), [(0.01, 6), (1e200, 3)])
def test_losses_that_stay_on_the_device_are_those_read_step_by_step(rate: float, steps: int) -> None:
    """Also where the weights overflow: the losses end there, and the state is the one before that step."""
    model, rates = small(), np.full(6, rate)
    feed = pack([[1, 2, 3], [3, 1], [2, 2, 1, 4]] * 6, rows_per_step=3, micro_batch_size=2)
    results = []
    for waits in (True, False):
        it = engine("torch")(model, Optim(clip_norm=0.1, weight_decay=0.1), dtype="float64")
        it.form = it.form._replace(waits=waits, static=not waits)  # type: ignore[attr-defined]
        norms = np.zeros(6)
        state, losses = it.train(it.load(weights(model)), feed, rates, norms)
        results.append((losses, norms, it.dump(state)))
    (losses, norms, tensors), (theirs, their_norms, their_tensors) = results
    assert len(losses) <= steps
    assert np.isfinite(losses).all() == (steps == 6)
    np.testing.assert_allclose(losses, theirs, rtol=1e-12)
    np.testing.assert_allclose(norms, their_norms, rtol=1e-12)
    for name, value in tensors.items():
        np.testing.assert_allclose(their_tensors[name], value, rtol=1e-12, err_msg=name)


FORMS = {
    "static": {"static": True},
    "padded": {"align": 64},
    "library": {"library": True},
    "copied": {"copied": True},
    "prefetched": {"static": True, "prefetches": True},
    "deterministic": {"deterministic": True, "library": True},
    "fixed": {"waits": False, "static": True, "copied": True},
    "all": {  # traced, not compiled
        "waits": False, "static": True, "align": 64, "library": True, "compiler": "eager", "copied": True,
        "prefetches": True,
        "deterministic": True,
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the tracer itself
@pytest.mark.parametrize("form", FORMS)
def test_every_form_for_a_gpu_gives_the_same_numbers(form: str) -> None:
    """Rows and micro-batches of unequal length, dropout, tied padded embeddings, clipping and decay."""
    case = CASES["everything"]
    model, optim = small(**case.model), Optim(**case.optim)
    rows = [[1, 2, 3], [3, 1], [2, 2, 1, 4], [5, 6, 0, 2, 1, 3, 3]] * 3
    feed = pack(rows, rows_per_step=3, micro_batch_size=2, seed=7, first_step=3)
    results = []
    if form == "all":  # other tests compile too
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    for options in ({}, FORMS[form]):
        it = engine("torch")(model, optim, dtype="float64")
        it.form = it.form._replace(**options)  # type: ignore[attr-defined]
        evaluated, norms = it.loss(it.load(moments(model)), feed), np.zeros(4)
        state, losses = it.train(it.load(moments(model)), feed, np.full(4, 0.01), norms)
        logits, _ = it.logits(state, np.array([1, 2, 3]))
        results.append({"evaluated": evaluated, "losses": losses, "norms": norms, "logits": logits} | it.dump(state))
    if form == "all":
        found = torch._dynamo.utils.counters
        assert found["stats"]["unique_graphs"] <= 2 * 2 + 1  # layer and head with gradients and without, the update
        assert not found["graph_break"]
    plain, other = results
    assert plain.keys() == other.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("options", [{"position": "learned", "tie_embeddings": True}, {"family": "modern"}])
def test_weights_cast_once_per_step_are_those_cast_at_each_product(options: dict[str, object]) -> None:
    """bfloat16: the same losses, and gradients of embeddings, of a tied head and of all matrices in float32."""
    model = small(**options)
    feed = pack([[1, 2, 3, 0, 4, 6, 2], [3, 1], [2, 2, 1, 4]] * 3, rows_per_step=3, micro_batch_size=2)
    results = []
    for copied in (False, True):
        it = engine("torch")(model, Optim(beta1=0.0), dtype="bfloat16")
        it.form = it.form._replace(copied=copied)  # type: ignore[attr-defined]
        state, losses = it.train(it.load(weights(model)), feed, np.full(3, 0.1))
        results.append((losses, it.dump(state)))
    (losses, tensors), (theirs, their_tensors) = results
    np.testing.assert_allclose(
        theirs, losses, rtol=0.01
    )  # where a product's order of sums depends on its place in memory
    assert np.ptp(losses) > 0.1  # weights of the step before would show
    for name in (name for name in tensors if name.startswith("m.")):  # the last gradient
        assert their_tensors[name].dtype == np.float32
        assert np.abs(their_tensors[name] - tensors[name]).max() <= 0.02 * np.abs(tensors[name]).max(), name


def test_the_thread_that_gathers_ends_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an error of its own, which is raised as without it, and where a step ends the call early."""
    model, feed = small(), pack([[1, 2, 3], [3, 1]] * 6, rows_per_step=2)
    it = engine("torch")(model, Optim(), dtype="float64")
    it.form = it.form._replace(static=True, prefetches=True)  # type: ignore[attr-defined]
    gathering, pad = set(), Feed._pad

    def failing(self: Feed, low: int, *rest: Any) -> Any:
        gathering.add(threading.current_thread())
        if low == 6:
            raise ZeroDivisionError("of the fourth step")
        return pad(self, low, *rest)

    monkeypatch.setattr(Feed, "_pad", failing)
    with pytest.raises(ZeroDivisionError, match="of the fourth step"):
        it.train(it.load(weights(model)), feed, np.full(6, 0.01))
    assert threading.current_thread() not in gathering
    assert gathering.isdisjoint(threading.enumerate())
    _, losses = it.train(it.load(weights(model)), feed.part(0, 3), np.array([1e200, 1e200, 1e200]))
    assert len(losses) < 3
    assert gathering.isdisjoint(threading.enumerate())


def test_dropout_masks_of_the_device_are_those_of_every_engine() -> None:
    model = small(dropout=0.3)
    for seed, step in ((2**40 + 5, 3), (0, 2**33)):
        (rows,) = pack([[1, 2, 3], [3, 1]], rows_per_step=2).micro_batches(0)
        feed = pack([[1, 2]], seed=seed)
        expected = dropout_masks(model, feed, rows, step, "float32")
        found = dropout(model, seed, step, 0, rows.inputs.shape, torch.float32, "cpu")
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.flatten(0, 1).numpy(), b)


def test_other_rungs_do_not_import_torch() -> None:
    code = "import sys; from microgpt.engines.ladder import engine; engine('manual'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
