"""The CPU and the libraries that some rungs stand on: are they here, and do they do what they are for?"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from microgpt.engines.ladder import LADDER
from microgpt.errors import MachineError
from microgpt.progress import ProgressCallback

# Widest first: a feature of the CPU, as LLVM names it, and the bits of its vectors.
VECTORS = (("avx512f", 512), ("avx2", 256), ("sve", 128), ("neon", 128), ("sse2", 128))


def cpu() -> dict[str, Any]:
    """Model, cores and the width of the vectors."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    width = next((bits for name, bits in VECTORS if features.get(name)), 64)
    return {
        "name": llvm.get_host_cpu_name(),
        "cores": os.cpu_count(),
        "vector_bits": width,
        "bfloat16": bool(features.get("avx512bf16")),  # the one kind of such products that an engine here uses
    }


def compiler() -> dict[str, Any]:
    """Numba's version, and whether it compiles here (NUMBA_DISABLE_JIT, or a broken install, would not tell)."""
    if not importlib.util.find_spec("numba"):
        return {"numba": None, "compiles": False}
    import numba

    twice = numba.njit(lambda x: x + x)
    compiles = twice(21) == 42 and bool(getattr(twice, "signatures", ()))
    return {"numba": numba.__version__, "compiles": compiles}


def is_compiled(rung: str) -> bool:
    """Whether a rung runs what Numba compiles."""
    return LADDER[rung].requires == "numba"


def verify_compiler(rung: str) -> None:
    """Raise MachineError where a rung is to be compiled, but Numba would run Python instead of machine code."""
    if is_compiled(rung) and not (found := compiler())["compiles"]:
        raise MachineError(
            f"MICROGPT_VERIFY_JIT: Numba ({found['numba'] or 'not installed'}) does not compile here; "
            "unset NUMBA_DISABLE_JIT, or reinstall numba",
            "E_JIT",
        )


@contextmanager
def watch_compiler(rung: str, progress: ProgressCallback) -> Iterator[None]:
    """Within the block, `progress` is called for each kernel when its compilation begins and when it is done.

    Kernels that come from the cache on disk are not compiled, so they are not reported.
    """
    if not is_compiled(rung):
        yield
        return
    from microgpt.engines.fused.jit.cache import listeners

    listeners.append(progress)
    try:
        yield
    finally:
        listeners.remove(progress)


def pytorch() -> dict[str, Any] | None:
    """PyTorch's version, devices and threads, or None where it is not installed."""
    if not importlib.util.find_spec("torch"):
        return None
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {"version": torch.__version__, "devices": devices, "threads": torch.get_num_threads()}
