"""Tensors in safetensors files: the number formats from float64 down to int8, and a strict reader.

int8 stores each row of a matrix as integers -127 .. 127 and one float32 scale, the row's largest magnitude / 127;
the scales of matrix X are the tensor `X.scale`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files, json_text
from microgpt.engines.common.int8 import quantised
from microgpt.errors import CheckpointError, NumericError
from microgpt.model import Tensors
from microgpt.runs.manifest import Entries, plain_size, read_file

HEADER_LIMIT = 10_000_000  # bytes of a safetensors header; ours have about 100 per tensor
PT = {"format": "pt"}  # the metadata that Hugging Face tools ask for
SCALE = ".scale"
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I8": 8}  # what safetensors calls them


def encode(tensors: Tensors, storage: str) -> bytes:
    """The bytes of a safetensors file that holds `tensors` as `storage`.

    Raises NumericError with the tensor's name where a number is not finite, or does not fit.
    """
    from safetensors import TensorSpec, serialize

    parts = {part: stored for name, values in tensors.items() for part, stored in _parts(name, values, storage).items()}
    specs = {
        name: TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, (dtype, array) in parts.items()  # which keeps the arrays alive
    }
    return serialize(specs, PT)


def pieces(tensors: Tensors) -> list[bytes | memoryview]:
    """The bytes that `encode` gives of float32 or float64 tensors: a header, then each tensor's memory, not copied."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # the library's
    header: dict[str, Any] = {"__metadata__": PT}
    parts: list[memoryview] = []
    at = 0
    for name in order:
        values = np.ascontiguousarray(tensors[name])
        parts.append(values.reshape(-1).view(np.uint8).data)
        span = [at, at := at + values.nbytes]
        header[name] = {"dtype": {4: "F32", 8: "F64"}[values.itemsize], "shape": list(values.shape)}
        header[name]["data_offsets"] = span
    text = json_text.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]


def decode(data: bytes) -> Tensors:
    """The tensors of a safetensors file as float64 or float32. Its header must have been checked before."""
    import safetensors

    read: Any = safetensors.deserialize
    raw = {name: (entry["dtype"], entry["shape"], entry["data"]) for name, entry in read(data)}
    out = {}
    for name, (dtype, shape, content) in raw.items():
        if dtype == "I8":
            scale = np.frombuffer(raw[name + SCALE][2], np.float32).reshape(-1, 1)
            out[name] = np.frombuffer(content, np.int8).reshape(shape) * scale
        elif dtype == "BF16":
            out[name] = from_bfloat16(np.frombuffer(content, np.uint16)).reshape(shape)
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) in raw):
            kind = {"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype]
            values = np.frombuffer(content, kind).reshape(shape)
            out[name] = values.astype(np.float32) if dtype == "F16" else values
    return out


def read_tensors(folder: Path, name: str, entries: Entries | None, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The tensors of a safetensors file, which must be exactly those of `shapes`, as float64 or float32.

    Raises CheckpointError; NumericError where a number is not finite.
    """
    from safetensors import SafetensorError

    where = folder / name
    limit = HEADER_LIMIT + sum(8 * math.prod(shape) for shape in shapes.values())
    if (size := plain_size(where)) > limit:
        raise CheckpointError(f"{where}: {size} bytes, at most {limit} for this model", "E_SAFETENSORS")
    data = read_file(folder, name, entries, limit)
    check_header(data, str(where), shapes)
    try:
        tensors = decode(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{where}: not a safetensors file ({error})", "E_SAFETENSORS") from None
    require_finite(tensors, str(where))
    return tensors


def require_finite(tensors: Tensors, where: str) -> None:
    """Raise NumericError with the name of a tensor that holds a number that is not finite."""
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise NumericError(
                f"{where}: tensor {name!r} holds a number that is not finite; use an earlier checkpoint, or train again"
            )


def check_header(data: bytes, where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse files that the safetensors library accepts: duplicate names, sizes that are not the file's, tensors
    that the model does not have. Raises CheckpointError."""

    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{where}: {reason}", "E_SAFETENSORS")

    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
        raise refuse(f"not a safetensors file (header of {length} bytes in a file of {len(data)})")
    header = files.parse_json(data[8 : 8 + length], where)
    if not isinstance(header, dict):
        raise refuse("not a safetensors file (its header is no object)")
    header.pop("__metadata__", None)
    scaled = [name for name in shapes if isinstance(header.get(name), dict) and header[name].get("dtype") == "I8"]
    shapes = {**shapes, **{name + SCALE: (shapes[name][0], 1) for name in scaled}}
    if header.keys() != shapes.keys():
        odd = sorted(header.keys() ^ shapes.keys())[0]
        raise refuse(f"tensor {odd!r} is {'unknown to the model' if odd in header else 'missing'}")
    spans = []
    for name, entry in header.items():
        facts: dict[str, Any] = entry if isinstance(entry, dict) else {}
        dtype, shape, span = (facts.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in BITS or (dtype != "F32" and name.endswith(SCALE)):
            raise refuse(f"tensor {name!r} has dtype {dtype!r}; expected one of {', '.join(BITS)}")
        if shape != list(shapes[name]):
            raise refuse(f"tensor {name!r} has shape {shape!r}; the model's is {list(shapes[name])}")
        size = BITS[dtype] // 8 * math.prod(shapes[name])
        if not isinstance(span, list) or [type(x) for x in span] != [int, int] or span[1] - span[0] != size:
            raise refuse(f"tensor {name!r} lies at {span!r}; expected {size} bytes")
        spans.append((span[0], span[1]))
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1] or ends[-1] != len(data) - 8 - length:
        raise refuse("its tensors overlap or leave holes")


def rounded(tensors: Tensors, storage: str) -> Tensors:
    """The values of `tensors` after they were stored as `storage`. Raises NumericError as `encode` does."""
    read = decode(encode(tensors, storage))
    return {name: read[name] for name in tensors}  # in their order, which a file does not keep


def _parts(name: str, values: np.ndarray, storage: str) -> dict[str, tuple[str, np.ndarray]]:
    if storage == "int8":
        whole, scale = to_int8(name, values)
        return {name: ("int8", whole), name + SCALE: ("float32", scale)}
    if storage == "bfloat16":
        return {name: ("bfloat16", to_bfloat16(name, values))}
    if storage == "float16":
        return {name: ("float16", to_float16(name, values))}
    return {name: (storage, np.ascontiguousarray(_finite(name, values), dtype=storage))}


def to_float16(name: str, values: np.ndarray) -> np.ndarray:
    """Half precision: 11 bits of a number, up to 65504. Raises NumericError beyond."""
    with np.errstate(over="ignore"):
        half = _finite(name, values).astype(np.float16)
    return _fits(name, values, half, np.isfinite(half), "float16", "65504; store it as bfloat16 or float32")


def to_bfloat16(name: str, values: np.ndarray) -> np.ndarray:
    """The upper half of a float32 as uint16, rounded to nearest even: 8 bits of a number, float32's range."""
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(_finite(name, values), dtype=np.float32).view(np.uint32)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return _fits(name, values, upper, upper & 0x7F80 != 0x7F80, "bfloat16", "3.39e38; store it as float64")


def from_bfloat16(upper: np.ndarray) -> np.ndarray:
    """float32 from the upper halves."""
    return (upper.astype(np.uint32) << 16).view(np.float32)


def to_int8(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as int8 (R, C) and float32 scales (R, 1). Raises NumericError where a number is not finite."""
    return quantised(_finite(name, values))


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise NumericError(f"tensor {name!r} holds a number that is not finite; use an earlier checkpoint")
    return values


def _fits(name: str, values: np.ndarray, stored: np.ndarray, good: np.ndarray, storage: str, limit: str) -> np.ndarray:
    if not good.all():
        largest = float(np.abs(values).max())
        raise NumericError(f"tensor {name!r} holds {largest:.6g}; {storage} ends at {limit}", "E_OVERFLOW")
    return stored
