"""The fit of a scaling law finds the constants that losses were made with."""

from __future__ import annotations

import numpy as np
import pytest

from microgpt.experiments.power_law import Fit, bootstrap, fit, interval, unidentified

LAW = Fit(E=1.69, A=40.0, B=90.0, alpha=0.34, beta=0.28)
N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e3, 1e5, 5), np.geomspace(1e5, 1e7, 4)))


def test_the_fit_finds_the_constants_of_a_table() -> None:
    found = fit(N, D, LAW.E + LAW.A / N**LAW.alpha + LAW.B / D**LAW.beta)
    assert found == pytest.approx(LAW, rel=1e-3)
    assert found.exponent == pytest.approx(0.28 / 0.62, rel=1e-3)


def test_one_bad_run_among_noise_changes_little() -> None:
    """Huber's loss counts a bad run once, not squared; the interval of the bootstrap holds the truth."""
    rng = np.random.default_rng(3)
    losses = (LAW.E + LAW.A / N**LAW.alpha + LAW.B / D**LAW.beta) * np.exp(rng.normal(0, 3e-4, N.size))
    losses[7] *= 1.2
    found = fit(N, D, losses)
    assert found.alpha == pytest.approx(LAW.alpha, abs=0.05)
    assert found.loss(1e6, 1e8) == pytest.approx(LAW.loss(1e6, 1e8), rel=0.03)
    low, high = interval([each.loss(1e6, 1e8) for each in bootstrap(N, D, losses, found, 20)])
    assert low < high
    assert low - 0.05 < LAW.loss(1e6, 1e8) < high + 0.05


def test_the_optimum_spends_the_compute_and_no_neighbour_is_better() -> None:
    n, d = LAW.optimum(1e15)
    assert 6 * n * d == pytest.approx(1e15)
    assert all(LAW.loss(n, d) < LAW.loss(n * factor, d / factor) for factor in (0.9, 1.1))


def test_constants_that_the_runs_do_not_determine_are_named() -> None:
    """Exact losses determine all; constants that vary, or lie at the end of their range, are not known."""
    losses = LAW.E + LAW.A / N**LAW.alpha + LAW.B / D**LAW.beta
    near = LAW._replace(alpha=0.35, beta=0.27)
    assert unidentified(N, D, losses, LAW, [LAW, near]) == []
    assert unidentified(N, D, losses, LAW, [LAW, LAW._replace(alpha=1.0)]) == ["alpha"]
    assert unidentified(N, D, losses, LAW, [LAW, LAW._replace(B=LAW.B * 3)]) == ["B"]
    moved = LAW._replace(beta=1.0, B=LAW.B * float(np.exp(np.log(D).mean())) ** (1.0 - LAW.beta))
    assert unidentified(N, D, losses, LAW, [LAW, moved]) == ["beta"], (
        "its B is a thousand times larger, its term is not"
    )
    steep = LAW._replace(E=0.0, beta=0.05)
    losses = steep.A / N**steep.alpha + steep.B / D**steep.beta
    found = fit(N, D, losses)
    assert set(unidentified(N, D, losses, found, [found])) >= {"E", "beta"}, "at the ends of their ranges"
