"""The same bits from the same numbers: PyTorch's deterministic algorithms, for as long as the engine computes.

Sums on a GPU may be made in the order in which their parts are ready. With these algorithms, so PyTorch's notes on
reproducibility say, they are not: the backward passes of the library's flash and memory-efficient attention take
another path, cuDNN's attention is not taken, and the compiler measures nothing that numbers depend on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic as memory


def fix_workspace() -> None:
    """Give cuBLAS a workspace of a fixed size, which it reads when it is first used; the user's own is kept."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Within the block there are no others; PyTorch's settings are put back behind it."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # nothing reads such memory, and filling it takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)
        memory.fill_uninitialized_memory = fills
