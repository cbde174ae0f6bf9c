"""A scaling law: models of several widths, each trained for several numbers of steps, and the law of their losses.

Every run has a schedule of its own that ends with it, as such a fit requires (Hoffmann et al. 2022, section 3.1). All
are measured on the same held-out part, and lie in one folder as usual runs, so a killed one goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from microgpt.config import Config, Model, merge
from microgpt.errors import DataError, UsageError
from microgpt.experiments.batch import Batch
from microgpt.experiments.power_law import FLOPS, Fit, bootstrap, fit, interval, unidentified
from microgpt.model import n_params
from microgpt.runs.listing import RunSummary

FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the scenario's steps, unless they are named
NARROWEST = 8  # times narrower than the scenario is the first width, and each other one twice the one before
LEAST = 6  # runs: the law has five constants
MORE = 10  # times the compute of the largest run, for which the law predicts
TIMES = 200  # of the bootstrap
CHECK = "check"  # the run that tests the prediction


class Point(NamedTuple):
    """A run as the law sees it."""

    width: int
    parameters: int
    steps: int
    tokens: int
    loss: float  # held out, in nats per token

    @property
    def flops(self) -> float:
        """Floating-point operations of its training, 6 per parameter and token."""
        return float(FLOPS * self.parameters * self.tokens)


@dataclass(frozen=True)
class Law:
    """The law of some runs, with the laws of a bootstrap over them."""

    points: list[Point]
    best: Fit
    others: list[Fit]
    unidentified: list[str]  # constants that the runs do not determine

    @classmethod
    def of(cls, points: list[Point]) -> Law:
        """Fit the law. Raises DataError for a loss that has no logarithm."""
        n, d, losses = (np.array(column, float) for column in zip(*((p[1], p[3], p[4]) for p in points), strict=True))
        if not (np.isfinite(losses).all() and (losses > 0).all()):
            raise DataError("scaling: a held-out loss is not above 0, so the law has no fit; hold out more text")
        best = fit(n, d, losses)
        others = bootstrap(n, d, losses, best, TIMES)
        return cls(points, best, others, unidentified(n, d, losses, best, others))

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The constants and the exponent of the best N, from the 10th to the 90th percentile."""
        names = (*Fit._fields, "exponent")
        return {name: interval([getattr(other, name) for other in self.others]) for name in names}

    def predict(self, parameters: float, tokens: float) -> tuple[float, float, float]:
        """The loss, and its interval."""
        low, high = interval([other.loss(parameters, tokens) for other in self.others])
        return self.best.loss(parameters, tokens), low, high


@dataclass(frozen=True)
class Prediction:
    """The best model for MORE times the compute, by the law, in whole heads and steps."""

    width: int
    parameters: int
    steps: int
    tokens: float
    loss: float
    low: float
    high: float
    limited: bool  # whether the law's best size lies outside of MORE times the sizes of its runs


class Family:
    """The runs of a scaling law: `base` is the configuration layer of a scenario or text, under `fixed` flags."""

    def __init__(
        self, base: Mapping[str, Any], fixed: Mapping[str, Any], widths: Sequence[int], steps: Sequence[int]
    ) -> None:
        self.base = Config.from_dict(merge(base, fixed), "flags")
        if self.base.run.epochs and not steps:
            raise UsageError("--steps: the scenario counts epochs, so name the numbers of steps, such as 500,1000,2000")
        planned, unit = self.base.run.steps, unit_of(self.base.model)
        first = max(1, round(self.base.model.n_embd / NARROWEST / unit)) * unit
        self.widths = sorted(set(widths)) or [first << i for i in range(len(FACTORS))]
        self.steps = sorted(set(steps)) or [max(1, round(planned * factor)) for factor in FACTORS]
        if len(self.widths) < 2 or len(self.steps) < 2 or len(self.widths) * len(self.steps) < LEAST:
            raise UsageError(
                f"--widths and --steps: expected two or more of each and {LEAST} runs, since the law has five "
                f"constants; got {len(self.widths)} times {len(self.steps)}"
            )

    def configs(self) -> dict[str, Config]:
        """The runs by their names, the smallest first."""
        return {f"w{width}-s{steps}": self.config(width, steps) for width in self.widths for steps in self.steps}

    def config(self, width: int, steps: int) -> Config:
        """A run, evaluated once, at its end. Its learning rate falls with the root of its width.

        Raises UsageError for a width that the heads do not divide.
        """
        config, factor = self.base, math.sqrt(self.base.model.n_embd / width)
        optim = config.optim
        ends = ("learning_rate", "min_learning_rate")
        layers = {
            "model": {"n_embd": width},
            "optim": {name: getattr(optim, name) * factor for name in ends}
            | {"warmup_steps": min(optim.warmup_steps, steps // 10)},
            "run": {"steps": steps, "eval_every": steps, "patience": 0, "sample_every": 0},
        }
        whole = config.to_dict()
        whole["run"].pop("epochs", None)
        return Config.from_dict(merge(whole, layers), f"width {width}")

    def prediction(self, law: Law, model: Model) -> Prediction:
        """The best of MORE times the largest run's compute; `model` is that of a run, with its vocabulary."""
        flops = MORE * max(point.flops for point in law.points)
        sizes = [point.parameters for point in law.points]
        best, _ = law.best.optimum(flops)
        aim = min(max(best, min(sizes)), MORE * max(sizes))

        def parameters(width: int) -> int:
            return n_params(model.model_copy(update={"n_embd": width}))

        unit = unit_of(model)
        width = unit
        while parameters(width + unit) <= aim:
            width += unit
        width = min((width, width + unit), key=lambda each: abs(math.log(parameters(each) / aim)))
        per_step = sum(point.tokens for point in law.points) / sum(point.steps for point in law.points)
        steps = max(1, round(flops / FLOPS / parameters(width) / per_step))
        loss, low, high = law.predict(parameters(width), steps * per_step)
        return Prediction(width, parameters(width), steps, steps * per_step, loss, low, high, aim != best)


def unit_of(model: Model) -> int:
    """What widths are multiples of: a pair of numbers per head."""
    return model.n_head * 2


def point_of(run: RunSummary) -> Point:
    """A trained run. Raises DataError where it has no held-out loss."""
    if run.config is None or run.val_loss is None or run.parameters is None or not run.tokens:
        raise DataError(f"{run.path}: has no held-out loss; start with another --out")
    return Point(run.config.model.n_embd, run.parameters, run.config.run.steps, run.tokens, run.val_loss)


def train_all(family: Family, out: Path, **options: Any) -> tuple[Law, Prediction]:
    """Train what is not trained yet, in `out`; fit and predict. `options` are those of Batch. Raises MicrogptError."""
    runs = Batch(out, family.configs(), **options).run()
    law = Law.of([point_of(run) for run in runs])
    assert runs[0].config
    return law, family.prediction(law, runs[0].config.model)


def check(family: Family, predicted: Prediction, out: Path, **options: Any) -> Point:
    """Train the predicted model once."""
    configs = {CHECK: family.config(predicted.width, predicted.steps)}
    return point_of(Batch(out, configs, **options).run()[0])
