from __future__ import annotations

import math

import numpy as np
import pytest

from microgpt.config import Optim
from microgpt.optim import adam, clip_scale, learning_rates


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_meet_their_end_points(schedule: str) -> None:
    optim = Optim(learning_rate=0.5, schedule=schedule, warmup_steps=10, min_learning_rate=0.1)
    rates = learning_rates(optim, 0, 111, 110)
    assert rates[:11].tolist() == [0.5 * step / 10 for step in range(11)]
    middle, end = {"constant": (0.5, 0.5), "linear": (0.3, 0.1), "cosine": (0.3, 0.1)}[schedule]
    assert rates[60] == pytest.approx(middle, rel=1e-15)
    assert rates[110] == pytest.approx(end, rel=1e-15)
    assert (np.diff(rates[10:]) <= 0).all()


def test_linear_without_warmup_is_that_of_the_names_run() -> None:
    rates = learning_rates(Optim(), 0, 1000, 1000)
    assert rates[[0, 1, 999]].tolist() == [0.01, 0.01 * (1 - 1 / 1000), 0.01 * (1 - 0.999)]


def test_cosine_is_a_quarter_down_after_a_third() -> None:
    optim = Optim(learning_rate=1.0, schedule="cosine")
    assert learning_rates(optim, 30, 1, 90)[0] == pytest.approx(0.75, rel=1e-15)


def test_part_of_a_schedule_is_the_whole_ones() -> None:
    optim = Optim(schedule="cosine", warmup_steps=3)
    assert learning_rates(optim, 4, 3, 10).tolist() == learning_rates(optim, 0, 10, 10)[4:7].tolist()


def test_warmup_longer_than_the_run_only_rises() -> None:
    assert learning_rates(Optim(warmup_steps=10), 0, 5, 5).tolist() == [0.01 * step / 10 for step in range(5)]


def test_clip_leaves_short_gradients_and_shortens_long_ones() -> None:
    assert [clip_scale(norm, 2.0) for norm in (0.0, 1.9, 2.0, 4.0)] == [1.0, 1.0, 1.0, 0.5]
    assert clip_scale(1e9, 0.0) == 1.0


def test_first_step_is_as_long_as_the_rate() -> None:
    """Both bias corrections undo the moments' start at zero."""
    p, m, v = adam(1.0, 3.0, 0.0, 0.0, Optim(), 0, 0.1)
    assert p == pytest.approx(0.9, rel=1e-8)
    assert (m, v) == pytest.approx((0.15 * 3, 0.01 * 9), rel=1e-15)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_equals_torch(decay: float) -> None:
    torch = pytest.importorskip("torch")
    optim = Optim(beta1=0.9, beta2=0.95, eps=1e-6, weight_decay=decay)
    rng = np.random.default_rng(0)
    p = rng.normal(size=50)
    m = v = np.zeros(50)
    theirs = torch.nn.Parameter(torch.tensor(p))
    adamw = torch.optim.AdamW([theirs], betas=(0.9, 0.95), eps=1e-6, weight_decay=decay)
    for step in range(50):
        g, lr = rng.normal(size=50) * 10.0 ** rng.integers(-6, 3), 0.1 / (1 + step)
        p, m, v = adam(p, g, m, v, optim, step, lr)
        theirs.grad = torch.tensor(g)
        adamw.param_groups[0]["lr"] = lr
        adamw.step()
    np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_floats_and_arrays_agree() -> None:
    optim = Optim(weight_decay=0.1)
    floats = adam(1.5, 0.3, 0.1, 0.2, optim, 4, 0.01)
    arrays = adam(*(np.full(1, x) for x in (1.5, 0.3, 0.1, 0.2)), optim, 4, 0.01)
    assert [float(a[0]) for a in arrays] == pytest.approx(floats, rel=1e-15)
    assert all(math.isfinite(x) for x in floats)
