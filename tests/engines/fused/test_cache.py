"""Compiled code on disk: whole or made again, never another's; and what loads it."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

import llvmlite.binding as llvm

from microgpt.engines.fused.jit import cache, compiler, elf
from microgpt.errors import MachineError

CODE = cache.Code(64, False, {"train": "qd"}, {"train": 3}, {"log": 8}, bytes(range(256)) * 40)
load = cache.load.__wrapped__

IMAGES = pytest.mark.skipif(not elf.possible(), reason="this machine's code is loaded by LLVM")


def python(script: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **environment},
        stdout=-1,
        stderr=-1,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of float32's code in a cache of its own."""
    code = cache.read(cache._folder() / f"float32-{cache._key('float32')}", cache._key("float32"))
    code = code or compiler.compiled("float32", cache._tell)
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    path = cache._folder() / f"float32-{cache._key('float32')}"
    cache.write(path, cache._key("float32"), code)
    return path


@pytest.fixture
def compilations(cached: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The float types compiled from now on; what it gives is the code that is there."""
    code, done = cache.read(cached, cache._key("float32")), []

    def compiled(dtype: str, told: cache.ProgressCallback) -> Any:
        done.append(dtype)
        return code

    monkeypatch.setattr(compiler, "compiled", compiled)
    return done


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    cache.write(tmp_path / "new" / "a", "key", CODE)
    assert cache.read(tmp_path / "new" / "a", "key") == CODE
    assert os.listdir(tmp_path / "new") == ["a"]


def test_a_file_that_is_not_whole_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    cache.write(path, "key", CODE)
    content = path.read_bytes()
    for length in (0, 1, 31, 32, 33, 100, len(content) - 1):
        path.write_bytes(content[:length])
        assert cache.read(path, "key") is None, length
    for at in range(0, len(content), 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert cache.read(path, "key") is None, at
    path.write_bytes(content + b"\0")
    assert cache.read(path, "key") is None


def test_a_damaged_file_is_compiled_again(cached: Path, compilations: list[str]) -> None:
    load("float32")
    assert compilations == []
    content = cached.read_bytes()
    for damaged in (b"", content[:1000], content[:-1], content[:5000] + b"?" + content[5001:]):
        cached.write_bytes(damaged)
        assert load("float32").vector in (16, 32, 64)
        assert cached.read_bytes() == content
    assert compilations == ["float32"] * 4


def test_another_file_under_this_name_is_not_used(cached: Path, compilations: list[str]) -> None:
    """Not that of another CPU or version, even where somebody copied it here."""
    cache.write(cached, "another key", CODE)
    load("float32")
    assert compilations == ["float32"]


def test_the_key_knows_the_cpu_the_versions_the_sources_and_the_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [cache._key("float32"), cache._key("float64")]
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", "haswell")
        keys.append(cache._key("float32"))
        patch.setenv("NUMBA_CPU_FEATURES", "+avx2")
        keys.append(cache._key("float32"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_cpu", lambda: "another")
        keys.append(cache._key("float32"))
    read_bytes = Path.read_bytes
    for changed in ("_version.py", "tiles.py", "vectors.py"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path, c=changed: read_bytes(path) + b"#" * (path.name == c))
            keys.append(cache._key("float32"))
    assert len(set(keys)) == len(keys)
    assert cache._key("float32") == keys[0]


def test_without_a_folder_it_is_compiled_in_memory(
    compilations: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(2):
        load("float32")
    assert compilations == ["float32"] * 2


def test_what_nobody_used_for_long_is_swept(tmp_path: Path) -> None:
    long_ago = time.time() - cache.UNUSED - 60
    for name in ("unused", "read", ".microgpt-tmp-x-1"):
        cache.write(tmp_path / name, "key", CODE)
    for name in ("unused", "read", ".microgpt-tmp-x-1"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert cache.read(tmp_path / "read", "key")
    cache.write(tmp_path / "new", "key", CODE)
    assert sorted(os.listdir(tmp_path)) == ["new", "read"]


TRAINS = """
import sys, time
import numpy as np
from pathlib import Path
from random import Random
from microgpt.config import Model, Optim
from microgpt.engines.ladder import engine
from microgpt.feed import pack
from microgpt.model import init_weights
{before}
model = Model(vocab_size=11, n_embd=24, n_head=3)
e = engine("fused")(model, Optim(), dtype="float32")
state, losses = e.train(e.load(init_weights(model, Random(0))), pack([[1, 2, 3, 4, 5]] * 4), np.full(4, 0.01))
print(losses.tolist(), [name for name in ("numba", "llvmlite", "scipy") if name in sys.modules])
"""
TOGETHER = """
from microgpt.engines.fused.jit import cache, compiler
code = cache.read(Path({path!r}), {key!r})
def compiled(dtype, told):
    Path({folder!r}, sys.argv[1] if sys.argv[1:] else str(time.monotonic_ns())).touch()
    while len(list(Path({folder!r}).iterdir())) < 2:  # both are at it
        time.sleep(0.001)
    return code
compiler.compiled = compiled
"""


@IMAGES
def test_a_warm_process_imports_neither_numba_nor_llvm(cached: Path) -> None:
    assert ended(python(TRAINS.format(before=""))).endswith("[]\n")


def test_two_processes_that_compile_at_once_both_get_their_code(cached: Path, tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    before = TOGETHER.format(path=str(cached), key=cache._key("float32"), folder=str(tmp_path / "busy"))
    script = TRAINS.format(before=before)
    both = [python(script, MICROGPT_CACHE_DIR=str(tmp_path / "empty")) for _ in range(2)]
    first, second = map(ended, both)
    assert first == second
    (file,) = (tmp_path / "empty" / "kernels").iterdir()
    assert file.read_bytes() == cached.read_bytes()


def test_numba_told_not_to_compile_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.config.DISABLE_JIT", 1)
    with pytest.raises(MachineError, match="NUMBA_DISABLE_JIT"):
        compiler.compiled("float32", cache._tell)


@IMAGES
def test_kernels_call_nothing_of_numba_or_python(cached: Path) -> None:
    code = cache.read(cached, cache._key("float32"))
    assert code is not None
    assert set(code.calls) <= {"log", "memset", "memcpy", "memmove", "sched_yield"}


def test_memory_that_may_not_be_executed_is_one_line(compilations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(code: Any) -> Any:
        raise OSError(13, "memory cannot be made executable")

    monkeypatch.setattr(cache, "Kernels", refused)
    with pytest.raises(MachineError, match="cannot be made executable"):
        load("float32")


def emitted(text: str) -> bytes:
    """The object code of LLVM's assembly."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    module = llvm.parse_assembly(f'target triple = "{llvm.get_process_triple()}"\n{text}')
    return bytes(target.create_target_machine(reloc="pic", codemodel="small").emit_object(module))


CONSTANTS = """
declare double @log(double)
define double @f(double %x) {
  %y = fmul double %x, 3.25
  %z = call double @log(double %y)
  %w = call double @g(double %z)
  ret double %w
}
define internal double @g(double %x) noinline {
  %y = fadd double %x, 0.125
  ret double %y
}
"""
ADDRESSES = """
@table = global ptr @f
define ptr @f() {
  %y = load ptr, ptr @table
  ret ptr %y
}
"""


@IMAGES
def test_an_image_has_its_constants_and_calls_what_lies_elsewhere() -> None:
    made = elf.image(emitted(CONSTANTS), ("f",))
    assert made is not None
    assert set(made.calls) == {"log"}
    owner, start = elf.place(made)
    found = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(start + made.doors["f"])(2.0)
    assert found == math.log(6.5) + 0.125
    assert len(owner) == len(made.data)


@IMAGES
def test_what_an_image_cannot_hold_is_none() -> None:
    assert elf.image(emitted(ADDRESSES), ("f",)) is None


def test_object_code_is_loaded_by_llvm() -> None:
    functions = [f"define i64 @{name}(ptr %p) {{ ret i64 {i} }}" for i, name in enumerate(cache.Kernels.NAMES)]
    code = cache.Code(16, False, dict.fromkeys(cache.Kernels.NAMES, "q"), None, {}, emitted("\n".join(functions)))
    kernels = cache.Kernels(code)
    assert [kernels.train(5), kernels.proceed(5), kernels.write(5), kernels.write_all(5)] == [0, 1, 2, 3]
