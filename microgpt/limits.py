"""The numbers that the configuration and the command line take.

Every number has an upper limit, so that no engine, library or file meets one that it cannot hold: counts fit an int32,
a seed fits TOML's integers, products of real numbers stay finite.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_COUNT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_REAL = 1e6
MAX_SIZE = 2**20  # of a vocabulary, a context, a matrix's side, a batch
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT, strict=True)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)]
Size = Annotated[int, Field(gt=0, le=MAX_SIZE, strict=True)]
Merges = Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]
Layers = Annotated[int, Field(gt=0, le=1024, strict=True)]
Threads = Annotated[int, Field(ge=0, le=1024, strict=True)]
Samples = Annotated[int, Field(ge=0, le=10**6, strict=True)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]
Cap = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]  # of logits: far above them it changes nothing
Real = Annotated[float, Field(ge=0, le=MAX_REAL, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


def byte_count(text: str) -> int:
    """The bytes of a size: 5000, 64kB, 200MB, 1.5 GB. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([kMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if not size:
        raise ValueError(f"must be a size such as 200MB, got {text[:40]!r}")
    return size


def _size(text: str) -> str:
    byte_count(text)
    return text


Bytes = Annotated[str, AfterValidator(_size)]
