"""Models that train side by side as one on a device: each has the numbers that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from microgpt.config import Optim
from microgpt.engines import ladder
from microgpt.engines.ladder import engine
from microgpt.errors import UsageError
from microgpt.feed import Feed, pack
from microgpt.model import Tensors
from tests.engines.ladder import CASES, moments, small, weights
from tests.engines.test_pytorch_capture import Recording

torch = pytest.importorskip("torch")
from microgpt.engines import pytorch  # noqa: E402
from microgpt.engines.pytorch import lanes as module  # noqa: E402
from microgpt.engines.pytorch.lanes import Lanes  # noqa: E402

ROWS = [[1, 2, 3], [3, 1], [2, 2, 1, 4], [5, 6, 0, 2, 1, 3, 3]] * 4
Blocks = list[tuple[Feed, np.ndarray]]


def blocks_of(lane: int, *lengths: int) -> Blocks:
    """A lane's blocks of steps: rows, seed, first step and rates of its own."""
    rows, first = ROWS[lane:] + ROWS[:lane], 5 * lane
    feed = pack(rows * 3, rows_per_step=3, micro_batch_size=2, seed=7 + lane, first_step=first)
    ends = np.cumsum([0, *lengths])
    return [(feed.part(a, b), np.full(b - a, 0.01 * (lane + 1))) for a, b in pairwise(ends)]


def train(it: Any, tensors: Tensors, blocks: Blocks) -> Tensors:
    """Losses, norms, an evaluation and logits between the blocks, and all tensors in the end."""
    state, found = it.load(tensors), []
    for feed, rates in blocks:
        norms = np.zeros(len(rates))
        state, losses = it.train(state, feed, rates, norms)
        logits, _ = it.logits(state, np.array([1, 2, 3]))
        found.append(np.concatenate([losses, norms[: len(losses)], it.loss(state, feed), logits.ravel()]))
    return {"found": np.concatenate(found)} | it.dump(state)


def together(make: Callable[[], Any], starts: list[Tensors], blocks: list[Blocks]) -> list[Any]:
    """Each lane's result, or its error, of threads that train as the lanes of one device."""
    lanes = Lanes(len(blocks))

    def one(number: int) -> Tensors:
        try:
            return train(lanes.lane(number, make()), starts[number], blocks[number])
        finally:
            lanes.leave(number)

    with ThreadPoolExecutor(len(blocks)) as threads:
        jobs = [threads.submit(one, number) for number in range(len(blocks))]
        return [job.exception(60) or job.result() for job in jobs]


def require_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the tracer itself
@pytest.mark.parametrize("form", [{}, {"align": 64}, {"compiler": "eager"}, {"recorded": True}], ids=str)
@pytest.mark.parametrize("case", ["everything", "classic"])
def test_lanes_have_the_numbers_of_each_alone(case: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unequal blocks and steps, dropout, accumulation, a tied head, clipping and decay; one ends first."""
    model, optim = small(**CASES[case].model), Optim(**CASES[case].optim)
    starts = [{name: value * (1 + 0.1 * k) for name, value in moments(model).items()} for k in range(3)]
    blocks = [blocks_of(0, 3, 4, 2), blocks_of(1, 9), blocks_of(2, 2)]
    alone = [train(engine("torch")(model, optim, dtype="float64"), *each) for each in zip(starts, blocks, strict=True)]
    recordings: list[Recording] = []
    if form.pop("recorded", False):
        monkeypatch.setattr(
            module, "Replay", lambda *args, **place: recordings.append(Recording(*args, **place)) or recordings[-1]
        )

    def make() -> Any:
        it = engine("torch")(model, optim, dtype="float64")
        it.form = it.form._replace(**form)  # type: ignore[attr-defined]
        return it

    for found, expected in zip(together(make, starts, blocks), alone, strict=True):
        require_equal(found, expected)
    assert all(len(each.operations) > 20 for each in recordings)


def test_in_bfloat16_products_alone_are_rounded() -> None:
    model = small()
    blocks = [blocks_of(k, 4) for k in range(2)]
    exact = [train(engine("torch")(model, Optim(), dtype="float64"), weights(model), each) for each in blocks]
    make = lambda: engine("torch")(model, Optim(), dtype="bfloat16")  # noqa: E731
    for found, expected in zip(together(make, [weights(model)] * 2, blocks), exact, strict=True):
        assert {value.dtype for name, value in found.items() if name != "found"} == {np.dtype("float32")}
        np.testing.assert_allclose(found["found"][:4], expected["found"][:4], rtol=0.02)
        assert (found["found"][:4] != expected["found"][:4].astype(np.float32)).any()


def test_a_lane_whose_loss_is_not_finite_ends_alone() -> None:
    """Its state is the one before that step, as with every engine; the others go on."""
    model, optim = small(), Optim()
    blocks = [blocks_of(k, 6) for k in range(2)]
    blocks[1][0][1][:] = 1e200
    alone = [train(engine("torch")(model, optim, dtype="float64"), weights(model), each) for each in blocks]
    found = together(lambda: engine("torch")(model, optim, dtype="float64"), [weights(model)] * 2, blocks)
    for one, expected in zip(found, alone, strict=True):
        require_equal(one, expected)
    assert not np.isfinite(found[1]["found"]).all()


def test_an_error_reaches_every_lane_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Stack, "_finish", lambda self: 1 / 0)
    blocks = [blocks_of(k, 2) for k in range(2)]
    found = together(lambda: engine("torch")(small(), Optim(), dtype="float64"), [weights(small())] * 2, blocks)
    assert [type(each) for each in found] == [ZeroDivisionError] * 2


def test_models_of_other_shapes_are_refused() -> None:
    lanes = Lanes(2)
    lanes.lane(0, engine("torch")(small(), Optim(), dtype="float64"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one shape and one vocabulary"):
        lanes.lane(1, engine("torch")(small(n_layer=2), Optim(), dtype="float64"))  # type: ignore[arg-type]


def test_lanes_are_for_a_gpu_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "devices", lambda: ("cpu",))
    assert ladder.lanes("torch", "auto") is None
    assert ladder.lanes("auto", "cuda") is None
    monkeypatch.setattr(pytorch, "devices", lambda: ("cuda", "cpu"))
    for name, device, there in [
        ("torch", "auto", True),
        ("auto", "cuda:1", True),
        ("auto", "auto", False),
        ("torch", "cpu", False),
        ("fused", "cuda", False),
    ]:
        assert (ladder.lanes(name, device) is Lanes) == there, (name, device)
