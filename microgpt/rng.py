"""Python's and NumPy's Mersenne Twister as one generator.

`random.Random` and `numpy.random.RandomState` run the same MT19937 and make the same uniform doubles from it, so a
generator's state can move from one to the other and back: NumPy draws many numbers in one call, and afterwards
Python's generator stands where it would stand had it drawn them itself.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np


def gauss(rng: Random, n: int, std: float) -> np.ndarray:
    """The next `n` values of `rng.gauss(0, std)`, the same doubles, about ten times faster; float64 (n,).

    The uniform doubles come from NumPy; logarithm and cosine stay with `math`, since NumPy's may differ in the
    last bit.
    """
    spare, generator = rng.getstate()[2], to_numpy(rng)
    drawn = [] if spare is None or n == 0 else [spare]
    pairs = (n - len(drawn) + 1) // 2
    uniform = generator.random_sample(2 * pairs)
    angle = (uniform[0::2] * (2 * math.pi)).tolist()
    radius = np.sqrt(-2.0 * np.array([math.log(1.0 - u) for u in uniform[1::2].tolist()]))
    z = np.empty(len(drawn) + 2 * pairs)
    z[: len(drawn)] = drawn
    z[len(drawn) :: 2] = np.array([math.cos(a) for a in angle]) * radius
    z[len(drawn) + 1 :: 2] = np.array([math.sin(a) for a in angle]) * radius
    if n:
        spare = float(z[n]) if len(z) > n else None
    from_numpy(rng, generator, spare)
    return 0.0 + z[:n] * std


def to_numpy(rng: Random) -> np.random.RandomState:
    """NumPy's generator in the state of `rng`: its `random_sample` gives the doubles that `rng.random` would."""
    _, state, _ = rng.getstate()
    generator = np.random.RandomState()
    generator.set_state(("MT19937", np.array(state[:-1], dtype=np.uint32), state[-1], 0, 0.0))
    return generator


def from_numpy(rng: Random, generator: np.random.RandomState, spare: float | None) -> None:
    """Put `rng` into the state of NumPy's generator; `spare` is the value that its next `gauss` returns, if any."""
    after: dict[str, Any] = generator.get_state(legacy=False)["state"]
    rng.setstate((rng.getstate()[0], (*after["key"].tolist(), int(after["pos"])), spare))
