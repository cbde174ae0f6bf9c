"""Only the pytorch rung has these: devices, bfloat16, and a thread count that belongs to the whole process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
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
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from microgpt.engines import pytorch  # noqa: E402
from microgpt.engines.pytorch import capture  # noqa: E402
from microgpt.engines.pytorch import model as pytorch_model  # noqa: E402
from microgpt.engines.pytorch.forms import dropout  # noqa: E402


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
    "fixed": {"waits": False, "static": True, "copied": True},
    "all": {  # traced, not compiled
        "waits": False, "static": True, "align": 64, "library": True, "compiler": "eager", "copied": True,
        "prefetches": True,
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


class Recording(TorchDispatchMode):
    """Stands for a CUDA graph: what the second call of a function computed is computed again, in the same memory."""

    def __init__(self, function: Callable[[], object], device: str | None) -> None:
        super().__init__()
        self.function, self.n_calls, self.operations = function, 0, []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operation is not torch.ops.aten._local_scalar_dense.default, "the host waits for a number"
        assert operation is not torch.ops.aten.lift_fresh.default, "a tensor is made of the host's numbers"
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result

    def __call__(self) -> None:
        self.n_calls += 1
        if self.n_calls > 2:
            with torch.no_grad():
                self.replay()
        elif self.n_calls == 2:
            with self:
                self.function()
        else:
            self.function()

    def replay(self) -> None:
        for operation, args, kwargs, result in self.operations:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)


class Alone:
    """Stands for several processes, of which it is the only one."""

    rank, size, n_local, leads = 0, 1, 1, True

    def __init__(self, shard: bool) -> None:
        self.shard = shard

    def place(self, device: str) -> str:
        return device

    def sum(self, tensor: Any) -> None:
        assert tensor.isfinite().all()

    def own(self, flat: Any) -> Any:
        return torch.cat([flat, flat.new_zeros(1)])

    sum_own = own

    def whole(self, part: Any, n: int) -> Any:
        return part[:n].clone()


@pytest.mark.parametrize("processes", [None, Alone(False), Alone(True)], ids=["one", "several", "sharded"])
def test_a_step_that_is_recorded_once_gives_the_same_numbers(processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that changes from step to step nothing is Python's own: step, rate, rows, dropout, places of weights."""
    case, original = CASES["everything"], pytorch_model.tables
    model, optim = small(**case.model), Optim(**case.optim)
    rows = [[1, 2, 3], [3, 1], [2, 2, 1, 4], [5, 6, 0, 2, 1, 3, 3]] * 3
    rates, results, tables = np.array([0.01, 0.02, 0.005, 0.01]), [], []
    monkeypatch.setattr(pytorch, "Replay", Recording)
    monkeypatch.setattr(pytorch, "tables", lambda *args: tables.append(original(*args)) or tables[-1])
    monkeypatch.setattr(
        pytorch_model, "tables", lambda *args: pytest.fail("may be freed") if tables else original(*args)
    )
    for fixed in (False, True):
        it = engine("torch")(model, optim, dtype="float64", processes=processes if fixed else None)  # type: ignore[call-arg]
        if fixed:
            form = {"waits": False, "static": True, "copied": True, "prefetches": True, "library": True}
            it.form = it.form._replace(**form)  # type: ignore[attr-defined]
        state, found, norms = it.load(moments(model)), [], np.zeros(8)
        for call in range(2):
            feed = pack(rows, rows_per_step=3, micro_batch_size=2, seed=7, first_step=3 + 4 * call)
            state, losses = it.train(state, feed, rates / (1 + call), norms[4 * call : 4 * call + 4])
            found.append(losses)
        results.append({"losses": np.concatenate(found), "norms": norms} | it.dump(state))
    plain, other = results
    assert len(tables) == 1
    assert len(it.fixed[2].operations) > 100
    for name, value in plain.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-12, atol=1e-15, err_msg=name)


class Graph:
    """Stands for torch.cuda's streams and graphs. A function called within it computes nothing, as in a capture."""

    def __init__(self, *_: object, stream: object = None, broken: bool = False) -> None:
        self.stream, self.broken = stream, broken

    def __enter__(self) -> None:
        if self.broken:
            raise RuntimeError("no room\nCompile with ...")

    def __exit__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


@pytest.mark.parametrize("broken", [False, True])
def test_a_function_is_captured_once_it_is_warm(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(Graph, "replay", lambda self: calls.append("replayed"), raising=False)
    monkeypatch.setattr(torch.cuda, "graph", partial(Graph, broken=broken))
    for name in ("CUDAGraph", "Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Graph)
    step = capture.Replay(lambda: calls.append("called"), "cuda")
    for _ in range(capture.WARM):
        step()
    assert calls == ["called"] * capture.WARM
    with (
        pytest.warns(RuntimeWarning, match=r"no CUDA graph: cuda computes without \(no room\)")
        if broken
        else nullcontext()
    ):
        step()
    step()
    assert calls[capture.WARM :] == (["called"] * 2 if broken else ["called", "replayed", "replayed"])


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
