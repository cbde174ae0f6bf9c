"""The tensor rung's graph: the gradient of every operation, at any depth, and no cycle in it."""

import gc
import random
from collections.abc import Callable

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines.tensor import Engine, Tensor
from microgpt.feed import pack
from microgpt.model import init_weights

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "add a constant": lambda a, b: 2.5 + a,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "multiply by a constant": lambda a, b: 2.5 * a,
    "multiply, repeated": lambda a, b: a * b.sum(),
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a**-0.5,
    "matrix product": lambda a, b: a @ b.swap(0, 1),
    "exp": lambda a, b: a.exp(),
    "log": lambda a, b: a.log(),
    "tanh": lambda a, b: a.tanh(),
    "relu": lambda a, b: (a + -1.2).relu(),
    "sum": lambda a, b: a.sum(),
    "reshape": lambda a, b: a.reshape(4, 3) @ b,
    "swap": lambda a, b: a.swap(0, 1) @ b,
    "take, one row twice": lambda a, b: a.take(np.array([2, 0, 2])),
    "take elements": lambda a, b: a.take(np.arange(3), np.array([1, 1, 3])),
    "exchange": lambda a, b: a.exchange(np.array([1, 0, 3, 2])) * b,
    "used twice": lambda a, b: a * a + a,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_way_back_is_the_derivative(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 2, (3, 4)), rng.uniform(0.5, 2, (3, 4))
    out = OPERATIONS[name](Tensor(a), Tensor(b)).data
    weights = rng.normal(size=out.shape)

    def number(a: np.ndarray, b: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        x, y = Tensor(a), Tensor(b)
        return (OPERATIONS[name](x, y) * weights).reshape(-1).sum(), x, y

    loss, x, y = number(a, b)
    loss.backward()
    for array, tensor in ((a, x), (b, y)):
        for at in np.ndindex(array.shape):
            moved = []
            for h in (1e-6, -1e-6):
                was, array[at] = array[at], array[at] + h
                moved.append(number(a, b)[0].data.item())
                array[at] = was
            expected = (moved[0] - moved[1]) / 2e-6
            assert np.broadcast_to(tensor.grad, array.shape)[at] == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_a_graph_of_any_depth() -> None:
    x = y = Tensor(np.ones(1))
    for _ in range(20_000):
        y = y * 1.0
    y.backward()
    assert x.grad == 1


def test_reference_counts_free_the_graph() -> None:
    model = Model(vocab_size=5, block_size=4, n_embd=4, n_head=2, activation="gelu", softcap=5.0, qk_norm=True)
    engine = Engine(model, Optim())
    state = engine.load(init_weights(model, random.Random(1)))
    feed = pack([[4, 0, 1, 4], [4, 2, 4]])
    gc.collect()
    gc.disable()
    try:
        state, _ = engine.train(state, feed, np.full(2, 0.01))
        engine.loss(state, feed)
        left = sum(type(thing) is Tensor for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left == len(state.w)


def test_a_step_that_ends_badly_leaves_no_gradient() -> None:
    model = Model(vocab_size=5, block_size=4, n_embd=4, n_head=2)
    engine = Engine(model, Optim(), dtype="float64")
    tensors = init_weights(model, random.Random(1))
    tensors["wte"][2] = np.nan
    good, bad = pack([[4, 0, 1, 4]]), pack([[4, 2, 4]])
    state, losses = engine.train(engine.load(tensors), bad, np.full(1, 0.01))
    assert np.isnan(losses).tolist() == [True]
    state, losses = engine.train(state, good, np.full(1, 0.01))
    expected, same = engine.train(engine.load(tensors), good, np.full(1, 0.01))
    assert losses.tolist() == same.tolist()
    assert all(np.array_equal(a, engine.dump(expected)[name], equal_nan=True) for name, a in engine.dump(state).items())
