"""Adam and the learning-rate schedules in plain operators, for floats, NumPy arrays and torch tensors alike."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from microgpt.config import Config, Optim


def adam(p: Any, g: Any, m: Any, v: Any, optim: Optim, step: int, lr: float) -> tuple[Any, Any, Any]:
    """One update of weights p from gradients g with moments m, v: returns the new (p, m, v).

    Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; the decay is decoupled (Loshchilov & Hutter 2019,
    arXiv:1711.05101). `step` counts from 0. Nothing is changed in place.
    """
    m = optim.beta1 * m + (1 - optim.beta1) * g
    v = optim.beta2 * v + (1 - optim.beta2) * g**2
    m_hat = m / (1 - optim.beta1 ** (step + 1))
    v_hat = v / (1 - optim.beta2 ** (step + 1))
    if optim.weight_decay:
        p = p - lr * optim.weight_decay * p
    return p - lr * m_hat / (v_hat**0.5 + optim.eps), m, v


def clip_scale(norm: float, clip_norm: float) -> float:
    """The factor that reduces a global gradient norm to at most `clip_norm`; 1 if `clip_norm` is 0."""
    return clip_norm / norm if clip_norm and norm > clip_norm else 1.0


def checked_loss(loss: float, norm: float) -> float:
    """The loss that an engine reports for a step: nan in place of a finite loss whose gradient's norm is not finite.

    A step whose reported loss is not finite makes no update and is the last of its call.
    """
    return loss if math.isfinite(norm) or not math.isfinite(loss) else math.nan


def scheduled(optim: Optim, step: np.ndarray, steps: int, progress: np.ndarray | None = None) -> np.ndarray:
    """The learning rates of optimizer steps by their numbers (from 0) of `steps`, float64.

    Warmup rises from 0 at step 0; then the schedule falls from `learning_rate` at the end of the warmup to
    `min_learning_rate` at `steps`. `progress` is how far it has fallen, 0 to 1, where steps do not decide it.
    """
    high, low, warmup = optim.learning_rate, optim.min_learning_rate, optim.warmup_steps
    if progress is None:
        progress = (step - warmup) / max(1, steps - warmup)
    if optim.schedule == "constant":
        rates = np.full(len(step), high)
    elif optim.schedule == "linear":
        rates = low + (high - low) * (1 - progress)
    else:  # the cosine of `math`, since NumPy's has other bits on another CPU
        rates = low + (high - low) * (0.5 * (1 + np.array([math.cos(math.pi * each) for each in progress.tolist()])))
    return np.where(step < warmup, high * step / max(1, warmup), rates)


def learning_rates(optim: Optim, first: int, count: int, steps: int) -> np.ndarray:
    """The learning rates of `count` steps from `first` on, float64 (count,)."""
    return scheduled(optim, np.arange(first, first + count), steps)


def rate_of_run(config: Config, step: int) -> float:
    """The learning rate of step `step` (from 0) of a run."""
    return float(rates_of_run(config, step, 1)[0])


def rates_of_run(config: Config, first: int, count: int) -> np.ndarray:
    """The learning rates of `count` steps from `first` on of a run, float64: each by the schedule of its phase."""
    step = np.arange(first, first + count)
    rates = _of_phase(config.optim, config.schedule_from, config.run.steps, config.pace, step)
    for phase in reversed(config.phases):
        earlier = _of_phase(phase.optim, phase.schedule_from, phase.steps, phase.pace, step)
        rates = np.where(step < phase.end_step, earlier, rates)
    return rates


def _of_phase(optim: Optim, begun: int, steps: int, pace: Sequence[tuple[int, float]], step: np.ndarray) -> np.ndarray:
    progress = None
    if pace:
        warm = progress_at(pace, begun + optim.warmup_steps) if optim.warmup_steps else 0.0
        progress = (np.array([progress_at(pace, each) for each in step.tolist()]) - warm) / ((1 - warm) or 1.0)
    past = np.maximum(0, step - begun)  # 0: a run.toml without the phases before
    return scheduled(optim, past, steps - begun, progress)


def progress_at(pace: Sequence[tuple[int, float]], step: float) -> float:
    """The progress through a schedule at a step: linear between the knots of its pace, constant beyond them."""
    i = bisect.bisect_right(pace, step, key=lambda knot: knot[0])
    if i in (0, len(pace)):
        return pace[max(0, i - 1)][1]
    (left, low), (right, high) = pace[i - 1], pace[i]
    return low + (high - low) * ((step - left) / (right - left))
