"""The steps of the pytorch rung as CUDA graphs, without a GPU: recordings and stand-ins take their place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest

from microgpt.config import Optim
from microgpt.engines.ladder import engine
from microgpt.feed import pack
from tests.engines.ladder import CASES, moments, small

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from microgpt.engines import pytorch  # noqa: E402
from microgpt.engines.pytorch import capture  # noqa: E402
from microgpt.engines.pytorch import model as pytorch_model  # noqa: E402


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
