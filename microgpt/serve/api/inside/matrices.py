"""The weights themselves: embeddings in two dimensions, and every matrix as a picture."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from microgpt.inference.pictures import picture, plane
from microgpt.serve import limits
from microgpt.serve.api.inside.question import STATUSES, AboutModel, Inside, look, pieces, rounded
from microgpt.serve.errors import ApiError
from microgpt.serve.routes import Call, Route

MOST_POINTS = 2048
MOST_CELLS = 128  # of a side


class Embeddings(AboutModel):
    """A matrix of embeddings."""

    matrix: Literal["wte", "wpe", "lm_head"] = Field(
        "wte", description="of tokens, of positions, or the rows of the output head"
    )


class Points(BaseModel):
    """Embeddings as points of the plane of their first two principal components."""

    labels: list[str] = Field(description="the tokens' texts, or the positions")
    x: list[float]
    y: list[float]
    shares: tuple[float, float] = Field(description="the share of all variance along either axis")
    left_out: int = Field(description="rows that are not among the points")


class Matrix(BaseModel):
    """A matrix of weights."""

    name: str
    rows: int
    columns: int
    std: float
    least: float
    most: float


class Matrices(BaseModel):
    """Every matrix of a model, in the order of its table of weights."""

    matrices: list[Matrix]


class MatrixName(AboutModel):
    """A matrix by its name."""

    name: limits.Name


class Picture(BaseModel):
    """A matrix in cells of -127 to 127, each the mean of a block of weights."""

    cells: list[list[int]]
    row_step: int = Field(description="rows of the matrix per row of cells")
    column_step: int
    scale: float = Field(description="the mean that 127 stands for")


async def embeddings(call: Call) -> Points:
    """Embeddings in two dimensions."""

    def answer(inside: Inside) -> Points:
        inspector, name = inside.inspector, call.body.matrix
        found = plane(_matrix(inside, name))
        points = found.points[:MOST_POINTS]
        rows = range(len(points))
        return Points(
            labels=[str(row) for row in rows] if name == "wpe" else pieces(inspector.source, rows),
            x=rounded(points[:, 0]),
            y=rounded(points[:, 1]),
            shares=found.shares,
            left_out=len(found.points) - len(points),
        )

    return await look(call, answer)


async def weights(call: Call) -> Matrices:
    """All matrices."""

    def answer(inside: Inside) -> Matrices:
        return Matrices(
            matrices=[
                Matrix(
                    name=name,
                    rows=matrix.shape[0],
                    columns=matrix.shape[1],
                    std=float(matrix.std()),
                    least=float(matrix.min()),
                    most=float(matrix.max()),
                )
                for name, matrix in inside.inspector.weights.items()
            ]
        )

    return await look(call, answer)


async def weight(call: Call) -> Picture:
    """A matrix as a picture."""

    def answer(inside: Inside) -> Picture:
        found = picture(_matrix(inside, call.body.name), MOST_CELLS)
        row_step, column_step = found.step
        return Picture(cells=found.cells.tolist(), row_step=row_step, column_step=column_step, scale=found.scale)

    return await look(call, answer)


def _matrix(inside: Inside, name: str) -> np.ndarray:
    found = inside.inspector.weights.get(name)
    if found is None:
        raise ApiError(400, f"this model has no matrix {name!r}; it has {', '.join(inside.inspector.weights)[:500]}")
    return found


ROUTES = [
    Route(
        "POST",
        "/api/inside/embeddings",
        embeddings,
        "Embeddings in two dimensions.",
        body=Embeddings,
        answer=Points,
        statuses=STATUSES,
    ),
    Route("POST", "/api/inside/weights", weights, "Every matrix.", body=AboutModel, answer=Matrices, statuses=STATUSES),
    Route(
        "POST",
        "/api/inside/weight",
        weight,
        "A matrix as a picture.",
        body=MatrixName,
        answer=Picture,
        statuses=STATUSES,
    ),
]
