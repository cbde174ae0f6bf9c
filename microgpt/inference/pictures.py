"""Matrices made small enough to look at: embeddings in two dimensions, weights as pictures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microgpt.errors import DataError


class Plane(NamedTuple):
    """Rows of a matrix as points of a plane, and the share of their variance along either axis."""

    points: np.ndarray  # (rows, 2)
    shares: tuple[float, float]


def plane(matrix: np.ndarray) -> Plane:
    """The first two principal components of a matrix's rows.

    They are right singular vectors of the centred rows, found from the small (D, D) covariance. A component's sign is
    arbitrary: its largest entry is made positive, so that checkpoints of a run look alike. Raises DataError for values
    that are not finite.
    """
    rows = matrix.astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError("the matrix has values that are not finite")
    rows -= rows.mean(axis=0)
    _, values, axes = np.linalg.svd(rows.T @ rows)
    first = axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    points = np.zeros((len(rows), 2))
    points[:, : len(first)] = rows @ first.T
    shares = np.zeros(2)
    shares[: len(first)] = values[:2] / (values.sum() or 1.0)
    return Plane(points, (float(shares[0]), float(shares[1])))


class Picture(NamedTuple):
    """A matrix in cells of -127 to 127, each the mean of a block of `step` rows and columns; 127 stands for `scale`."""

    cells: np.ndarray  # int8
    step: tuple[int, int]
    scale: float


def picture(matrix: np.ndarray, most: int) -> Picture:
    """A matrix as a picture of at most (most, most) cells."""
    rows, columns = -(-matrix.shape[0] // most), -(-matrix.shape[1] // most)
    means = _means(_means(matrix.astype(np.float64), rows).T, columns).T
    scale = float(np.abs(means).max())
    return Picture(np.rint(means * (127 / (scale or 1.0))).astype(np.int8), (rows, columns), scale)


def _means(matrix: np.ndarray, step: int) -> np.ndarray:
    """The means of each `step` neighbouring rows, of the rest at the end."""
    at = np.arange(0, len(matrix), step)
    counts = np.diff(np.append(at, len(matrix)))
    means: np.ndarray = np.add.reduceat(matrix, at, axis=0) / counts[:, None]
    return means
