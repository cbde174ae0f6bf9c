"""Position-independent machine code: an image made from an ELF object file, placed in memory without LLVM.

LLVM's library takes 50 MB of memory and a tenth of a second to load, more than a small model and its training. For
code that is position-independent and calls few functions, little is left of a linker's work, which is done here, on
Linux for x86-64. Elsewhere there is no image, and LLVM loads the object file. The names are those of the ELF
specification and the System V ABI for x86-64.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

PROGBITS, SYMTAB, RELA, NOBITS = 1, 2, 4, 8  # kinds of sections
ALLOC = 2  # the flag of a section that is in memory when the code runs
PC32, PLT32 = 2, 4  # relocations: 32 bits, relative to where they are
JUMP = b"\xff\x25"  # jmp to the address that lies at a 32-bit distance from the next instruction


class Image(NamedTuple):
    """Code, the offsets of its kernels, and those at which the addresses of called functions are to be written."""

    data: bytes
    entry_points: dict[str, int]
    calls: dict[str, int]


class Section(NamedTuple):
    """The fields of an ELF section header that are used here."""

    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


def possible() -> bool:
    """Whether this machine can run images."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def image(elf: bytes, entry_points: tuple[str, ...]) -> Image | None:
    """The image of an object file, or None where it has a relocation that is not known here."""
    start, size, count = struct.unpack_from("<40xQ10xHH", elf)[0], *struct.unpack_from("<58xHH", elf)
    fields = [struct.unpack_from("<IIQ8xQQIIQ", elf, start + size * i) for i in range(count)]
    sections = [Section(*field) for field in fields]
    data, places = bytearray(), {}
    for i, section in enumerate(sections):
        if section.flags & ALLOC and section.kind == PROGBITS:
            data += bytes(-len(data) % section.align)
            places[i] = len(data)
            data += elf[section.offset : section.offset + section.size]
    symbols = list(_symbols(elf, sections))
    calls: dict[str, int] = {}
    stubs: dict[str, int] = {}
    for name in sorted({name for name, at, _ in symbols if name and not at}):
        data += bytes(-len(data) % 8)
        stubs[name], calls[name] = len(data), len(data) + 8
        data += JUMP + struct.pack("<i", 2) + bytes(2 + 8)
    for section in sections:
        if section.kind != RELA or section.info not in places:
            continue
        for at in range(section.offset, section.offset + section.size, 24):
            offset, kind, symbol, addend = struct.unpack_from("<QIIq", elf, at)
            name, index, value = symbols[symbol]
            if kind not in (PC32, PLT32) or (index and index not in places):
                return None
            place = places[section.info] + offset
            target = places[index] + value if index else stubs[name]
            struct.pack_into("<i", data, place, target + addend - place)
    return Image(bytes(data), {name: places[at] + value for name, at, value in symbols if name in entry_points}, calls)


def _symbols(elf: bytes, sections: list[Section]) -> Iterator[tuple[str, int, int]]:
    """Name, section (0 for an undefined symbol) and offset of every symbol."""
    table = next(section for section in sections if section.kind == SYMTAB)
    names = sections[table.link].offset
    for at in range(table.offset, table.offset + table.size, 24):
        name, section, value = struct.unpack_from("<IxxHQ", elf, at)
        begin = names + name
        yield elf[begin : elf.index(b"\0", begin)].decode(), section, value


def place(code: Image) -> tuple[mmap.mmap, int]:
    """Memory that holds the image, and its address. Raises OSError where memory cannot be made executable."""
    memory = mmap.mmap(-1, len(code.data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = code.data
    process = ctypes.CDLL(None, use_errno=True)
    for name, at in code.calls.items():
        struct.pack_into("<Q", memory, at, ctypes.cast(getattr(process, name), ctypes.c_void_p).value)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if process.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    return memory, address
