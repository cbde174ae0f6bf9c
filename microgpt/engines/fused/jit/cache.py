"""Compiled code on disk: one file for every float type, made once by Numba, then loaded without it.

A file is the SHA-256 of the rest, a line of JSON, and the code. Its key names everything that the code depends on: our
sources, the versions of Numba and LLVM, the CPU. A file that is not whole or of another key is compiled again. Where no
folder can be written, the code lives in this process alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import struct
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from microgpt import files
from microgpt.engines.fused.jit.elf import Image, place
from microgpt.errors import MachineError
from microgpt.progress import ProgressCallback

UNUSED = 30 * 24 * 3600  # seconds after which a file that nobody took is swept

listeners: list[ProgressCallback] = []  # called for each kernel that is compiled


class Kernel:
    """A compiled function of numbers and addresses, eight bytes each, one after another in one piece of memory.

    Called with ints, floats and addresses; what it returns is an int. Other Python threads run meanwhile.
    """

    def __init__(self, address: int, form: str, owner: Any) -> None:
        self.pack = struct.Struct(form).pack
        self.function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(address)
        self.owner = owner  # of the code

    def __call__(self, *args: float) -> int:
        return self.function(self.pack(*args))  # type: ignore[no-any-return]


class Code(NamedTuple):
    """Compiled code of a float type: an image where there can be one, else object code that LLVM loads."""

    vector: int  # bytes of the vectors that it computes with
    words: bool  # its products are of bfloat16s, two in a word
    forms: dict[str, str]  # of every kernel, its arguments as module `struct` writes them
    doors: dict[str, int] | None  # see Image; None: object code
    calls: dict[str, int]
    data: bytes


class Kernels:
    """What Python calls; the arguments are those of the functions of these names. Raises OSError, see `place`."""

    NAMES = ("train", "proceed", "write", "write_all")

    def __init__(self, code: Code) -> None:
        if code.doors is not None:
            owner, start = place(Image(code.data, code.doors, code.calls))
            addresses = {name: start + at for name, at in code.doors.items()}
        else:
            owner, addresses = _link(code.data)
        self.vector, self.words = code.vector, code.words
        found = (Kernel(addresses[name], code.forms[name], owner) for name in self.NAMES)
        self.train, self.proceed, self.write, self.write_all = found


@cache
def load(dtype: str) -> Kernels:
    """The kernels of a float type, from disk or compiled. Those of bfloat16 are float32's where the CPU lacks it.

    Raises MachineError where Numba is told not to compile, or the system runs no code that is made while it runs.
    """
    key = _key(dtype)
    path = _folder() / f"{dtype}-{key}"
    code = read(path, key)
    if code is None:
        from microgpt.engines.fused.jit.compiler import compiled

        code = compiled(dtype, _tell)
        with suppress(OSError):
            write(path, key, code)
    try:
        return Kernels(code)
    except OSError as error:
        raise MachineError(f"--engine fused: {error.strerror}; take --engine manual", "E_JIT") from error


def _tell(kernel: str, seconds: float | None) -> None:
    for told in listeners:
        told(kernel, seconds)


def _folder() -> Path:
    """Where the files are."""
    return files.cache_folder("kernels")


def _key(dtype: str) -> str:
    """What tells this code from any other."""
    parts = [Path(file).read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py"))]
    for module in ("numba", "llvmlite"):  # their versions, without importing them
        spec = importlib.util.find_spec(module)
        if spec and spec.origin:
            parts.append(Path(spec.origin).with_name("_version.py").read_bytes())
    named = [os.environ.get(f"NUMBA_CPU_{what}", "") for what in ("NAME", "FEATURES")]
    parts += [word.encode() for word in (dtype, platform.system(), *named, _cpu())]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]


def _cpu() -> str:
    """What tells this CPU from any other."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0]
        return "\n".join(line for line in first.splitlines() if "MHz" not in line and "bogomips" not in line.lower())
    import llvmlite.binding as llvm

    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


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
    return Code(head["vector"], head["words"], head["forms"], head["doors"], head["calls"], data)


def write(path: Path, key: str, code: Code) -> None:
    """Write a file whole, and remove those that were not used for long. Raises OSError."""
    head = {"key": key, **{name: value for name, value in code._asdict().items() if name != "data"}}
    rest = files.to_json(head, indent=None) + code.data
    files.make_folders(path.parent)
    files.write_atomic(path, hashlib.sha256(rest).digest() + rest)
    for file in path.parent.iterdir():
        if file.is_file() and time.time() - file.stat().st_mtime > UNUSED:
            files.forget(file)


def _link(data: bytes) -> tuple[Any, dict[str, int]]:
    """LLVM's engine with this object code, and the kernels' addresses; it finds what they call in this process."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return engine, {name: engine.get_function_address(name) for name in Kernels.NAMES}
