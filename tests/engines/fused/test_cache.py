"""Compiled code on disk: a file is whole or made again, its key fits, and the folder is swept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

from microgpt.engines import fused
from microgpt.engines.common import compiling
from microgpt.engines.fused.entries import KERNELS
from microgpt.engines.fused.jit import cache, compiler, elf
from microgpt.engines.fused.jit.code import Code
from microgpt.errors import MachineError
from microgpt.progress import ProgressCallback

CODE = Code(64, False, {"train": "qd"}, {"train": 3}, {"log": 8}, bytes(range(256)) * 40)
load = cache.load.__wrapped__

IMAGES = pytest.mark.hardware(elf.possible(), "images of code: Linux on x86-64 (elsewhere LLVM loads it)")


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
    code = code or compiler.compile_kernels(KERNELS, "float32", compiling.report)
    assert isinstance(code, Code)
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    path = cache._folder() / f"float32-{cache._key('float32')}"
    cache.write(path, cache._key("float32"), code)
    return path


@pytest.fixture
def compilations(cached: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The float types compiled from now on; what it gives is the code that is there."""
    code, done = cache.read(cached, cache._key("float32")), []

    def compile_kernels(functions: Any, dtype: str, progress: ProgressCallback) -> Any:
        assert functions == KERNELS
        done.append(dtype)
        return code

    monkeypatch.setattr(compiler, "compile_kernels", compile_kernels)
    return done


@pytest.mark.parametrize("kind", ["pipe", "huge", "folder"])
def test_no_pipe_is_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 3 << 30)
    else:
        path.mkdir()
    assert cache.read(path, "key") is None
    if kind != "folder":
        cache.write(path, "key", CODE)
        assert cache.read(path, "key") == CODE


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


def test_code_for_narrower_vectors_is_compiled_by_another_process_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("MICROGPT_AVX512", raising=False)
    writing, started = False, 0

    def run(command: list[str], *, env: dict[str, str], **_: object) -> None:
        nonlocal started
        started += 1
        assert command[-1] == "float32"
        with monkeypatch.context() as patch:
            patch.setenv("MICROGPT_AVX512", env["MICROGPT_AVX512"])
            if writing:
                cache.write(cache._folder() / f"float32-{cache._key('float32')}", cache._key("float32"), CODE)

    monkeypatch.setattr(cache.subprocess, "run", run)
    assert cache._narrow("float32") is None
    writing = True
    assert [cache._narrow("float32") for _ in range(2)] == [CODE, CODE]
    assert started == 2
    assert cache.read(cache._folder() / f"float32-{cache._key('float32')}", cache._key("float32")) is None


def test_the_key_covers_the_cpu_the_versions_and_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [cache._key("float32"), cache._key("float64")]
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", "another")
        keys.append(cache._key("float32"))
        patch.setenv("NUMBA_CPU_FEATURES", "+none")
        keys.append(cache._key("float32"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "cpu_text", lambda: "another")
        keys.append(cache._key("float32"))
        patch.setenv("MICROGPT_NUMBA", "public")
        keys.append(cache._key("float32"))
    with monkeypatch.context() as patch:
        read_bytes = Path.read_bytes
        patch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path.name == "_version.py"))
        keys.append(cache._key("float32"))
    assert len(set(keys)) == len(keys)
    assert cache._key("float32") == keys[0]


def test_the_key_covers_every_source_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in sub-folders: a change of any file makes another key, as do a new file and one that is gone."""
    package = Path(fused.__file__).parent
    engine = sorted(package.rglob("*.py"))
    assert {path.parent.name for path in engine} == {"fused", "jit", "simd"}
    assert set(engine) < set(cache.sources())
    keys = {cache._key("float32")}
    read_bytes = Path.read_bytes
    for changed in cache.sources():
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path, c=changed: read_bytes(path) + b"#" * (path == c))
            keys.add(cache._key("float32"))
    for files in (cache.sources()[1:], [*cache.sources(), Path(__file__)]):
        with monkeypatch.context() as patch:
            patch.setattr(cache, "sources", lambda f=files: f)
            keys.add(cache._key("float32"))
    assert len(keys) == len(cache.sources()) + 3


def test_without_a_folder_it_is_compiled_in_memory(
    compilations: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(2):
        load("float32")
    assert compilations == ["float32"] * 2


@pytest.mark.parametrize("instructions", [False, True])
def test_without_instructions_for_it_bfloat16_is_the_code_of_float32(
    cached: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch, instructions: bool
) -> None:
    monkeypatch.setattr(cache, "cpu", lambda: {"bfloat16": instructions})
    for _ in range(2):
        load("bfloat16")
    assert compilations == ["bfloat16"] * instructions


def test_what_nobody_used_for_long_is_swept(tmp_path: Path) -> None:
    long_ago = time.time() - cache.UNUSED - 60
    for name in ("unused", "read", ".microgpt-tmp-x-1"):
        cache.write(tmp_path / name, "key", CODE)
    for name in ("unused", "read", ".microgpt-tmp-x-1"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert cache.read(tmp_path / "read", "key")
    cache.write(tmp_path / "new", "key", CODE)
    assert sorted(os.listdir(tmp_path)) == ["new", "read"]


def test_more_files_than_anyone_needs_are_swept(tmp_path: Path) -> None:
    now = time.time()
    for age in range(cache.KEPT + 5):
        (tmp_path / str(age)).write_bytes(b"")
        os.utime(tmp_path / str(age), (now - age, now - age))
    cache.sweep(tmp_path)
    assert sorted(map(int, os.listdir(tmp_path))) == list(range(cache.KEPT))


def test_folders_of_earlier_versions_are_swept_and_nothing_else(tmp_path: Path) -> None:
    """Until 2026-11-21 Numba's own files lay in a folder of 16 hexadecimal digits per version of our sources."""
    folder, elsewhere = tmp_path / "kernels", tmp_path / "elsewhere"
    for path in (folder / "0123456789abcdef" / "fused_1", folder / "mine", folder / "0123456789abcdef0", elsewhere):
        path.mkdir(parents=True)
        (path / "kernels.train-17.py311.1.nbc").write_bytes(b"code")
    (folder / "fedcba9876543210").symlink_to(elsewhere)
    cache.write(folder / "new", "key", CODE)
    assert sorted(os.listdir(folder)) == ["0123456789abcdef0", "fedcba9876543210", "mine", "new"]
    assert os.listdir(elsewhere) == ["kernels.train-17.py311.1.nbc"]


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
def compile_kernels(functions, dtype, progress):
    Path({folder!r}, sys.argv[1] if sys.argv[1:] else str(time.monotonic_ns())).touch()
    while len(list(Path({folder!r}).iterdir())) < 2:  # both are at it
        time.sleep(0.001)
    return code
compiler.compile_kernels = compile_kernels
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


@IMAGES
def test_kernels_call_nothing_of_numba_or_python(cached: Path) -> None:
    code = cache.read(cached, cache._key("float32"))
    assert code is not None
    assert set(code.calls) <= {"log", "memset", "memcpy", "memmove", "sched_yield"}


@pytest.mark.parametrize(("owner", "name"), [(Code, "load"), (cache, "_code")])
def test_memory_that_may_not_be_executed_is_one_line(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    def refused(_: Any) -> Any:
        raise OSError(13, "memory cannot be made executable")

    monkeypatch.setattr(owner, name, refused)
    with pytest.raises(MachineError, match="cannot be made executable"):
        load("float32")
