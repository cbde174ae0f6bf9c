from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from microgpt.errors import NumericError
from microgpt.runs import tensors

X = np.random.default_rng(0).normal(0, 3, (40, 17))


@pytest.mark.parametrize(
    ("stored", "bound"), [("float64", 0), ("float32", 2**-24), ("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_a_file_holds_each_number_within_its_precision(stored: str, bound: float) -> None:
    back = tensors.decode(tensors.encode({"x": X}, stored))["x"]
    assert (np.abs(back - X) <= bound * np.abs(X)).all()


def test_int8_is_half_a_step_away_at_most() -> None:
    x = X.copy()
    x[3] = 0
    data = tensors.encode({"x": x}, "int8")
    back = tensors.decode(data)
    assert list(back) == ["x"]
    assert (np.abs(back["x"] - x) <= np.abs(x).max(axis=1, keepdims=True) / 127 * 0.501).all()
    assert len(data) < x.size * 2


def test_bfloat16_rounds_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([X.astype(np.float32).ravel(), np.float32([0, -0.0, 1e-40, 1 + 2**-8, 1 + 3 * 2**-8])])
    theirs = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(tensors.from_bfloat16(tensors.to_bfloat16("x", x)), theirs)


@pytest.mark.parametrize(("stored", "value"), [("float16", 65520.0), ("float16", -1e6), ("bfloat16", 3.4e38)])
def test_overflow_is_refused_by_name(stored: str, value: float) -> None:
    with pytest.raises(NumericError, match=r"'layer0\.mlp_fc1' holds .* ends at") as caught:
        tensors.encode({"layer0.mlp_fc1": np.array([[1.0, value]])}, stored)
    assert caught.value.code == "E_OVERFLOW"


@pytest.mark.parametrize("stored", ["float64", "float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(stored: str, value: float) -> None:
    with pytest.raises(NumericError, match="'wte' holds a number that is not finite"):
        tensors.encode({"wte": np.array([[1.0, value]])}, stored)


@pytest.mark.parametrize("stored", ["float32", "float64"])
def test_the_pieces_of_a_file_are_those_of_the_library(stored: str) -> None:
    values = {"m.b": X.T, "a": X[:1], "layer0.wö": X}  # one of them turned
    values = {name: each.astype(stored, order="K") for name, each in values.items()}
    assert b"".join(tensors.pieces(values)) == tensors.encode(values, stored)
    values |= {"half": X.astype(np.float32), "b": X}
    values = {name: np.ascontiguousarray(each) for name, each in values.items()}
    assert b"".join(tensors.pieces(values)) == save(values, tensors.PT)
