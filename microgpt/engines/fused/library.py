"""Compiled code on disk: one file for every float type, made once by Numba, then loaded without it.

A file is the SHA-256 of the rest, a line of JSON, and object code as LLVM wrote it (ELF, Mach-O or COFF). Its key names
everything that the code depends on: our sources, the versions of Numba and LLVM, the CPU. A file that is not whole or
of another key is compiled again. Where no folder can be written, the code lives in this process alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm

from microgpt import fsio

UNUSED = 30 * 24 * 3600  # seconds after which a file that nobody took is swept

Told = Callable[[str, float | None], None]
listeners: list[Told] = []  # each hears of a kernel as it is begun, with None, and in how many seconds it was done


class Kernel:
    """A compiled function of numbers and addresses, eight bytes each, one after another in one piece of memory.

    Called with ints, floats and addresses; what it returns is an int. Other Python threads run meanwhile.
    """

    def __init__(self, engine: Any, name: str, form: str) -> None:
        self.engine = engine  # owns the code
        self.pack = struct.Struct(form).pack
        self.function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(engine.get_function_address(name))

    def __call__(self, *args: float) -> int:
        return self.function(self.pack(*args))  # type: ignore[no-any-return]


class Kernels(NamedTuple):
    """What Python calls; the arguments are those of the functions of these names."""

    train: Kernel
    proceed: Kernel
    write: Kernel
    write_all: Kernel


class Code(NamedTuple):
    """Object code, and for every kernel the form of its arguments, as module `struct` writes it."""

    forms: dict[str, str]
    data: bytes


@cache
def machine() -> tuple[str, str]:
    """Name and features of the CPU compiled for, as LLVM writes them: this one, or that of Numba's two variables."""
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
    return name, features


def registers() -> tuple[int, int]:
    """Bytes a vector register holds and how many vectors a tile may keep in registers."""
    features = machine()[1].split(",")
    if "+avx512f" in features:
        return 64, 24
    if "+avx" in features:
        return 32, 12
    return 16, 24 if "+neon" in features else 12


def lanes_of(dtype: str) -> int:
    """Numbers in a vector."""
    return registers()[0] // (8 if dtype == "float64" else 4)


@cache
def load(dtype: str) -> Kernels:
    """The kernels of a float type, from disk or compiled. Raises MachineError where Numba is told not to compile."""
    key = _key(dtype)
    path = _folder() / f"{dtype}-{key}"
    code = read(path, key)
    if code is None:
        from microgpt.engines.fused.compiler import compiled

        code = compiled(dtype, _tell)
        with suppress(OSError):
            write(path, key, code)
    return _link(code)


def _tell(kernel: str, seconds: float | None) -> None:
    for told in listeners:
        told(kernel, seconds)


def _folder() -> Path:
    """Where the files are."""
    from microgpt.data.datasets import cache_folder

    return cache_folder().with_name("kernels")


def _key(dtype: str) -> str:
    """What tells this code from any other."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    numba = importlib.util.find_spec("numba")
    if numba and numba.origin:  # its version, without importing it
        sources.append(Path(numba.origin).with_name("_version.py"))
    parts = [dtype, llvmlite.__version__, llvm.get_process_triple(), *machine()]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        digest.update(b"\0" + source.read_bytes())
    return digest.hexdigest()[:32]


def read(path: Path, key: str) -> Code | None:
    """The code of a file, or None where there is none, or not all of it, or other code."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, rest = content[:32], content[32:]
    if hashlib.sha256(rest).digest() != checksum:
        return None
    line, _, data = rest.partition(b"\n")
    head = json.loads(line)
    if head["key"] != key:
        return None
    with suppress(OSError):
        os.utime(path)  # used today
    return Code(head["forms"], data)


def write(path: Path, key: str, code: Code) -> None:
    """Write a file whole, and remove those that were not used for long. Raises OSError."""
    rest = fsio.to_json({"key": key, "forms": code.forms}, indent=None) + code.data
    fsio.make_folders(path.parent)
    fsio.write_atomic(path, hashlib.sha256(rest).digest() + rest)
    for file in path.parent.iterdir():
        if file.is_file() and time.time() - file.stat().st_mtime > UNUSED:
            fsio.forget(file)


def _link(code: Code) -> Kernels:
    """The kernels of code in memory; LLVM finds what they call, such as `log`, in this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.data))
    engine.finalize_object()
    return Kernels(*(Kernel(engine, name, code.forms[name]) for name in Kernels._fields))
