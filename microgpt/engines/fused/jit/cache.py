"""Compiled kernels on disk: one file per float type, made once, then loaded without Numba or LLVM.

A file is the SHA-256 of the rest, a line of JSON, and the code. Its key covers everything that the code depends on: our
sources, the versions of Numba and LLVM, the CPU. A file that is damaged or has another key is compiled again. Where no
folder can be written, the code lives in this process alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from microgpt import files, json_text
from microgpt.engines.common import compiling
from microgpt.engines.common.hardware import cpu, cpu_text
from microgpt.engines.fused.jit.code import Code, Kernels
from microgpt.errors import MachineError

UNUSED = 30 * 24 * 3600  # seconds after which a file that was not used is removed
KEPT = 32  # files that are kept at most, the last ones that were used
VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "MICROGPT_NUMBA", "MICROGPT_AVX512")  # that code depends on
NARROW = "compile the kernels for the plan's narrower vectors, once: about ten seconds"
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from microgpt.engines.fused.jit.cache import load; load(sys.argv[2])"
)
OLD_FOLDER = re.compile("[0-9a-f]{16}")  # the names of the folders that earlier versions kept Numba's files in


@cache
def load(dtype: str, narrow: bool = False) -> Kernels:
    """The kernels of a float type, from disk or compiled. Those of bfloat16 are float32's where the CPU lacks it.

    With `narrow` those without AVX-512, or the usual ones where such cannot be had; not for int8.
    Raises MachineError where Numba is told not to compile, or the system runs no code that is made while it runs.
    """
    try:
        # Numba too asks whether code may be made, when it is imported
        code = (narrow and _narrow(dtype)) or _code(dtype)
        if isinstance(code, Kernels):
            return code
        return code.load(load("float32")) if dtype == "int8" else code.load()
    except OSError as error:
        raise MachineError(f"--engine fused: {error.strerror}; take --engine manual", "E_JIT") from error


def _code(dtype: str) -> Code | Kernels:
    """The code of a float type, from its file or compiled into it; kernels where there can be no file."""
    key = _key(dtype)
    path = _folder() / f"{dtype}-{key}"
    code: Code | Kernels | None = read(path, key)
    if code is None:
        if dtype == "bfloat16" and not cpu()["bfloat16"]:
            code = _code("float32")
        else:
            from microgpt.engines.fused.entries import DECODING, KERNELS
            from microgpt.engines.fused.jit.compiler import compile_kernels
            from microgpt.engines.fused.jit.functions import INTERNALS

            code = compile_kernels(DECODING if dtype == "int8" and INTERNALS else KERNELS, dtype, compiling.report)
        if isinstance(code, Code):
            with suppress(OSError):
                write(path, key, code)
    return code


def _narrow(dtype: str) -> Code | None:
    """The code without AVX-512, from its file, or compiled into it; None where that fails.

    Another process compiles it, since the functions of this one may have been translated for wider vectors.
    """
    key = _key(dtype, MICROGPT_AVX512="0")
    path = _folder() / f"{dtype}-{key}"
    code = read(path, key)
    if code is None and _codes_are_kept():
        compiling.report(NARROW, None)
        start, environment = time.perf_counter(), os.environ | {"MICROGPT_AVX512": "0"}
        command = [sys.executable, "-P", "-c", BOOT, json_text.dumps(sys.path), dtype]
        none = subprocess.DEVNULL
        with suppress(OSError):
            subprocess.run(command, env=environment, stdin=none, stdout=none, stderr=none, check=False)
        compiling.report(NARROW, time.perf_counter() - start)
        code = read(path, key)
    return code


def _codes_are_kept() -> bool:
    """Whether this Numba's compiled code can be in a file."""
    from microgpt.engines.fused.jit.functions import INTERNALS

    return INTERNALS is not None


def _folder() -> Path:
    return files.cache_folder("kernels")


def _key(dtype: str, **environment: str) -> str:
    """A hash of everything that compiled code depends on, with some variables of the environment set."""
    parts = [Path(file).read_bytes() for file in sources()]
    for module in ("numba", "llvmlite"):  # their versions, without importing them
        spec = importlib.util.find_spec(module)
        if spec and spec.origin:
            parts.append(Path(spec.origin).with_name("_version.py").read_bytes())
    variables = {name: os.environ.get(name, "") for name in VARIABLES} | environment
    parts += [word.encode() for word in (dtype, platform.system(), cpu_text(), *variables.values())]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]


def sources() -> list[Path]:
    """All of this engine's source files, and the one that says which CPU is compiled for."""
    return [*sorted(Path(__file__).parents[1].rglob("*.py")), Path(__file__).parents[2] / "common" / "hardware.py"]


def read(path: Path, key: str) -> Code | None:
    """The code of a file, or None where there is none, it is damaged, or its key is another."""
    try:
        content = files.read_bytes(path, files.LARGE)
    except OSError:
        return None
    checksum, rest = content[:32], content[32:]
    if hashlib.sha256(rest).digest() != checksum:
        return None
    line, _, data = rest.partition(b"\n")
    head = json.loads(line)
    if head.pop("key") != key:
        return None
    with suppress(OSError):
        os.utime(path)  # used today
    return Code(**head, data=data)


def write(path: Path, key: str, code: Code) -> None:
    """Write a file atomically, then sweep its folder. Raises OSError."""
    head = {"key": key, **{name: value for name, value in code._asdict().items() if name != "data"}}
    rest = files.to_json(head, indent=None) + code.data
    files.make_folders(path.parent)
    files.write_atomic(path, hashlib.sha256(rest).digest() + rest)
    sweep(path.parent)


def sweep(folder: Path) -> None:
    """Remove the files that were not used for long or are too many, and the folders of earlier versions."""
    now, found = time.time(), []
    for entry in folder.iterdir():
        if entry.is_symlink():
            continue
        if entry.is_file():
            found.append((entry.stat().st_mtime, entry))
        elif entry.is_dir() and OLD_FOLDER.fullmatch(entry.name):
            with suppress(OSError):
                files.remove_folder(entry)
    for number, (used, file) in enumerate(sorted(found, reverse=True)):
        if number >= KEPT or now - used > UNUSED:
            files.discard(file)
