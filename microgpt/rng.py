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

PAIRS = 2**16  # drawn at once, so that little lies in memory beside the values themselves


def gauss(rng: Random, n: int, std: float) -> np.ndarray:
    """The next `n` values of `rng.gauss(0, std)`, the same doubles, about ten times faster; float64 (n,).

    The uniform doubles come from NumPy; logarithm and cosine stay with `math`, since NumPy's may differ in the
    last bit.
    """
    spare, generator = rng.getstate()[2], to_numpy(rng)
    out, done = np.empty(n), 0
    if spare is not None and n:
        out[0], done, spare = 0.0 + spare * std, 1, None
    while done < n:
        pairs = min(PAIRS, (n - done + 1) // 2)
        uniform = generator.random_sample(2 * pairs)
        angle = (uniform[0::2] * (2 * math.pi)).tolist()
        radius = np.sqrt(-2.0 * np.array([math.log(1.0 - u) for u in uniform[1::2].tolist()]))
        z = np.empty(2 * pairs)
        z[0::2] = np.array([math.cos(a) for a in angle]) * radius
        z[1::2] = np.array([math.sin(a) for a in angle]) * radius
        took = min(2 * pairs, n - done)
        spare = float(z[took]) if took < 2 * pairs else None
        out[done : done + took] = 0.0 + z[:took] * std
        done += took
    from_numpy(rng, generator, spare)
    return out


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
