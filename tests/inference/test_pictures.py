"""Principal components and downsampled matrices against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from microgpt.inference.pictures import picture, plane


def test_the_plane_is_that_of_the_singular_value_decomposition() -> None:
    rows = np.random.default_rng(3).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    centred = rows - rows.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = plane(rows)
    np.testing.assert_allclose(np.abs(found.points), np.abs(u[:, :2] * s[:2]), atol=1e-9)
    np.testing.assert_allclose(found.shares, s[:2] ** 2 / (s**2).sum(), rtol=1e-12)


def test_the_sign_of_a_component_is_the_same_for_a_mirrored_matrix() -> None:
    rows = np.random.default_rng(4).normal(size=(9, 5))
    np.testing.assert_allclose(plane(-rows).points, -plane(rows).points, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (4, 4)])
def test_small_and_constant_matrices_have_a_plane(shape: tuple[int, int]) -> None:
    found = plane(np.ones(shape, np.float32))
    assert found.points.shape == (shape[0], 2)
    assert not found.points.any()
    assert found.shares == (0, 0)


def test_a_picture_is_the_mean_of_each_block() -> None:
    matrix = np.random.default_rng(5).normal(size=(10, 7)).astype(np.float32)
    found = picture(matrix, 4)
    assert found.step == (3, 2)
    assert found.cells.shape == (4, 4)
    for i in range(4):
        for j in range(4):
            mean = matrix[3 * i : 3 * i + 3, 2 * j : 2 * j + 2].mean()
            assert found.cells[i, j] / 127 * found.scale == pytest.approx(mean, abs=found.scale / 250)
    assert np.abs(found.cells).max() == 127


def test_a_small_matrix_keeps_its_cells_and_zero_stays_zero() -> None:
    assert picture(np.eye(3), 64).cells.tolist() == (127 * np.eye(3, dtype=int)).tolist()
    found = picture(np.zeros((2, 300)), 64)
    assert found.scale == 0
    assert not found.cells.any()
    assert found.cells.shape == (2, 60)
