"""The machine: its CPU, its memory, and the devices that PyTorch finds."""

from __future__ import annotations

import importlib.util
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

# Widest first: a feature of the CPU, as LLVM names it, and the bits of the vectors that the fused kernels then use.
VECTORS = (("avx512dq", 512), ("avx", 256), ("sve", 128), ("neon", 128), ("sse2", 128))
NARROWEST = 128  # where LLVM names no feature: all CPUs with 64-bit addresses that it knows well have such vectors


def compile_target() -> tuple[str, str]:
    """Name and features of the CPU that code is compiled for, as LLVM writes them.

    That is this machine's, unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name another; set both, for a name alone keeps
    the features found here. MICROGPT_AVX512=0 leaves AVX-512 out.
    """
    import llvmlite.binding as llvm

    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
    if os.environ.get("MICROGPT_AVX512") == "0":
        features = re.sub(r"\+(?=[^,]*512|avx10)", "-", features)
    return name, features


def cpu() -> dict[str, Any]:
    """The CPU that code is compiled for: its name, the width of its vectors, bfloat16 products; and the cores here."""
    name, features = compile_target()
    present = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    width = next((bits for feature, bits in VECTORS if feature in present), NARROWEST)
    return {
        "name": name,
        "cores": os.cpu_count(),
        "vector_bits": width,
        "bfloat16": width == 512 and "avx512bf16" in present,  # the one kind of such products that an engine here uses
    }


def identity() -> str:
    """The CPU's model and features, however this system describes them, and the cores that this process may use."""
    return f"{cpu_text()}\n{cores()} cores"


def cpu_text() -> str:
    """The CPU's model and features, however this system describes them."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0]
        return "\n".join(line for line in first.splitlines() if "MHz" not in line and "bogomips" not in line.lower())
    import llvmlite.binding as llvm

    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CACHES = {1: 1 << 15, 2: 1 << 20}  # bytes of the data caches by level, where the system does not tell


def cache_sizes() -> dict[int, int]:
    """Bytes of a core's data caches of level 1 and 2."""
    found = {}
    with suppress(OSError, ValueError):
        for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
            level, size = int((index / "level").read_text()), (index / "size").read_text().strip()
            if (index / "type").read_text().strip() != "Instruction" and size.endswith("K"):
                found[level] = int(size[:-1]) << 10
    return {level: min(max(found.get(level, usual), 1 << 13), 1 << 26) for level, usual in CACHES.items()}


CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of version 2 and 1


def memory() -> int | None:
    """The bytes of memory that a process may use: the machine's, a container's or `ulimit -v`; None if unknown."""
    found = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has none of this
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in CGROUPS:
        with suppress(ValueError, OSError):  # "max" is no number
            found.append(int(Path(path).read_text(encoding="ascii")))
    with suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        found += [] if soft == resource.RLIM_INFINITY else [soft]
    return min((size for size in found if size > 0), default=None)


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
