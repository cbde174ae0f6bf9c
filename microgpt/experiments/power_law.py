"""The loss of a model by its parameters N and its training tokens D: L = E + A / N^alpha + B / D^beta.

Hoffmann et al. 2022 (arXiv:2203.15556), equation 2, fitted as in their section 3.3: the Huber loss of the differences
of logarithms, from many beginnings, with intervals from the 10th to the 90th percentile of a bootstrap over the runs.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

DELTA = 1e-3  # of the Huber loss, of log L
STEPS = 300  # most of one fit
FLOPS = 6  # per parameter and token
EXPONENTS = (0.05, 3.0)  # in which alpha and beta are sought: outside, a term is a constant or nothing
SPAN = 7.0  # natural logarithms below the least loss in which E is sought
AT_END = 0.01  # of the logarithm's or exponent's range: so near to its end, a constant was not found
ENDS = (0.1, 0.9)  # quantiles of the intervals


class Fit(NamedTuple):
    """The constants of the law."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n: float, d: float) -> float:
        """The predicted loss of N parameters after D tokens."""
        return self.E + self.A / n**self.alpha + self.B / d**self.beta

    @property
    def exponent(self) -> float:
        """The best N for C floating-point operations grows as C to this power (equation 4)."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """The parameters and tokens with the lowest loss for so many floating-point operations, C = 6 N D."""
        total = self.alpha + self.beta
        factor = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        n = factor * (flops / FLOPS) ** self.exponent
        return n, flops / FLOPS / n


def fit(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> Fit:
    """The law of some runs (arrays of one length: parameters, tokens, losses), the best from 48 beginnings."""
    log_n, log_d, log_l = np.log(n), np.log(d), np.log(losses)
    found = []
    for alpha, beta, part in itertools.product((0.1, 0.3, 0.6, 1.2), (0.1, 0.3, 0.6, 1.2), (0.3, 0.7, 0.95)):
        e = math.log(part * losses.min())
        rest = math.log((losses.mean() - part * losses.min()) / 2)
        begin = np.array([rest + alpha * log_n.mean(), rest + beta * log_d.mean(), e, alpha, beta])
        found.append(_descend(begin, log_n, log_d, log_l))
    return _constants(min(found, key=lambda each: each[1])[0])


def bootstrap(n: np.ndarray, d: np.ndarray, losses: np.ndarray, begin: Fit, times: int, seed: int = 1) -> list[Fit]:
    """Laws of as many runs drawn with replacement, each fitted from `begin`."""
    rng, log_n, log_d, log_l = np.random.default_rng(seed), np.log(n), np.log(d), np.log(losses)
    theta = np.array([math.log(begin.A), math.log(begin.B), math.log(begin.E), begin.alpha, begin.beta])
    drawn = (rng.integers(len(n), size=len(n)) for _ in range(times))
    return [_constants(_descend(theta, log_n[rows], log_d[rows], log_l[rows])[0]) for rows in drawn]


def interval(values: list[float]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    low, high = np.quantile(values, ENDS)
    return float(low), float(high)


def unidentified(n: np.ndarray, d: np.ndarray, losses: np.ndarray, best: Fit, others: list[Fit]) -> list[str]:
    """The constants that the runs do not determine: their interval is wider than they are, or they lie at an end.

    Of the range, that is, in which they are sought. A and B are measured by their terms at the mean of log N and of
    log D, since A itself follows every change of alpha.
    """
    n_mid, d_mid = math.exp(np.log(n).mean()), math.exp(np.log(d).mean())

    def sizes(law: Fit) -> Fit:
        return law._replace(A=law.A / n_mid**law.alpha, B=law.B / d_mid**law.beta)

    def share(value: float, low: float, high: float) -> float:
        return (value - low) / (high - low)

    least = math.log(losses.min())
    places = {name: share(getattr(best, name), *EXPONENTS) for name in ("alpha", "beta")}
    places["E"] = share(math.log(best.E), least - SPAN, least)
    found = []
    for name, value in sizes(best)._asdict().items():
        low, high = interval([getattr(sizes(other), name) for other in others])
        if high - low > value or not AT_END < places.get(name, 0.5) < 1 - AT_END:
            found.append(name)
    return found


def _constants(theta: np.ndarray) -> Fit:
    a, b, e, alpha, beta = map(float, theta)
    return Fit(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def _huber(residuals: np.ndarray) -> float:
    sizes = np.abs(residuals)
    return float(np.where(sizes <= DELTA, sizes**2 / 2, DELTA * (sizes - DELTA / 2)).sum())


def _descend(theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_l: np.ndarray) -> tuple[np.ndarray, float]:
    """Levenberg and Marquardt's steps with Huber's weights from (log A, log B, log E, alpha, beta); and the loss."""
    least = float(log_l.min())
    low = np.array([-20.0, -20.0, least - SPAN, EXPONENTS[0], EXPONENTS[0]])
    high = np.array([60.0, 60.0, least, EXPONENTS[1], EXPONENTS[1]])
    residuals, terms = _residuals(theta, log_n, log_d, log_l)
    best, damping = _huber(residuals), 1e-3
    for _ in range(STEPS):
        weights = np.minimum(1.0, DELTA / np.maximum(np.abs(residuals), 1e-300))
        jacobian = np.column_stack([terms.T, -terms[0] * log_n, -terms[1] * log_d])
        normal = jacobian.T @ (weights[:, None] * jacobian)
        ridge = damping * np.diag(np.diag(normal) + 1e-12)
        step = np.linalg.solve(normal + ridge, -jacobian.T @ (weights * residuals))
        tried = np.clip(theta + step, low, high)
        new, shares = _residuals(tried, log_n, log_d, log_l)
        if (value := _huber(new)) < best:
            gain, best = best - value, value
            theta, residuals, terms, damping = tried, new, shares, max(damping / 5, 1e-12)
            if gain < 1e-12 * best + 1e-18:
                break
        elif damping > 1e8:
            break
        else:
            damping *= 4
    return theta, best


def _residuals(
    theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_l: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log of the law less log of the loss, per run; and the shares of the terms A, B and E in the law: (3, runs)."""
    a, b, e, alpha, beta = theta
    logs = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    most = logs.max(axis=0)
    parts = np.exp(logs - most)
    total = parts.sum(axis=0)
    return most + np.log(total) - log_l, parts / total
