"""Compiled kernels: as bytes that a file can hold, and as functions that Python calls."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from microgpt.engines.fused.jit.elf import Image, place


class Kernel:
    """A compiled function of one pointer, to its arguments: eight bytes each, one after another.

    Called with ints, floats and addresses; returns an int. Releases Python's global interpreter lock while it runs.
    """

    def __init__(self, address: int, form: str, owner: Any) -> None:
        self.pack = struct.Struct(form).pack
        self.function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(address)
        self.owner = owner  # keeps the machine code in memory

    def __call__(self, *args: float) -> int:
        return self.function(self.pack(*args))  # type: ignore[no-any-return]


class Kernels(NamedTuple):
    """The entry points of a float type; their arguments are those of the functions of these names in entries.py."""

    vector: int  # bytes per vector register
    bf16_pairs: bool  # operands of products are pairs of bfloat16s
    train: Kernel
    decode: Kernel
    generate: Kernel
    generate_batch: Kernel


NAMES = Kernels._fields[2:]


class Code(NamedTuple):
    """Machine code of a float type: an image where elf.py can make one, else an object file that LLVM loads."""

    vector: int
    bf16_pairs: bool
    forms: dict[str, str]  # per kernel: the types of its arguments, in the format of module `struct`
    entry_points: dict[str, int] | None  # see elf.Image; None: an object file
    calls: dict[str, int]
    data: bytes

    def load(self, rest: Kernels | None = None) -> Kernels:
        """Place the code in memory, beside the `rest` of the kernels. Raises OSError where it cannot be executable."""
        if self.entry_points is not None:
            owner, start = place(Image(self.data, self.entry_points, self.calls))
            addresses = {name: start + offset for name, offset in self.entry_points.items()}
        else:
            owner, addresses = link(self.data, self.forms)
        kernels: dict[str, Any] = {name: Kernel(addresses[name], form, owner) for name, form in self.forms.items()}
        return rest._replace(**kernels) if rest else Kernels(self.vector, self.bf16_pairs, **kernels)


def link(data: bytes, names: Iterable[str]) -> tuple[Any, dict[str, int]]:
    """LLVM's execution engine with an object file, and the addresses of some functions in it.

    What the file needs is looked up in this process. LLVM makes the memory executable and no longer writable, and then
    invalidates the instruction cache, by the calls of each system. It loses an error there, so it is asked before:
    raises OSError where memory cannot be executable.
    """
    import llvmlite.binding as llvm

    llvm.check_jit_execution()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    return engine, {name: engine.get_function_address(name) for name in names}
