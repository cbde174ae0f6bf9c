"""Matrices as tuples of rows, and the little algebra of them that the functional rung needs. Nothing is mutated."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import add, mul

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


def matrix(rows: list[list[float]]) -> Matrix:
    """Lists as a Matrix."""
    return tuple(map(tuple, rows))


def dot(a: Vector, b: Vector) -> float:
    """The inner product of two vectors."""
    return sum(map(mul, a, b))


def product(a: Matrix, b: Matrix) -> Matrix:
    """A B^T: (n, k), (m, k) -> (n, m)."""
    return tuple(tuple(dot(row, column) for column in b) for row in a)


def transpose(a: Matrix) -> Matrix:
    """Rows to columns."""
    return tuple(zip(*a, strict=True))


def plus(a: Matrix, b: Matrix) -> Matrix:
    """A + B."""
    return tuple(tuple(map(add, row, other)) for row, other in zip(a, b, strict=True))


def times(a: Matrix, b: Matrix) -> Matrix:
    """A and B, number by number."""
    return tuple(tuple(map(mul, row, other)) for row, other in zip(a, b, strict=True))


def split(a: Matrix, size: int) -> tuple[Matrix, ...]:
    """Side by side parts of `size` columns: (n, H size) -> H of (n, size)."""
    return tuple(tuple(row[at : at + size] for row in a) for at in range(0, len(a[0]), size))


def join(parts: Iterable[Matrix]) -> Matrix:
    """The inverse of `split`."""
    return tuple(tuple(chain(*rows)) for rows in zip(*parts, strict=True))
