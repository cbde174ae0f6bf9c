"""From Python to kernels: through Numba's private interfaces, or its public one where those do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("numba")

import numba

from microgpt.engines.fused.entries import KERNELS
from microgpt.engines.fused.jit import code, compiler, functions, numba_internals
from microgpt.errors import MachineError
from microgpt.progress import no_progress

PUBLIC = """
import sys
import numpy as np
from random import Random
from microgpt.config import Model, Optim
from microgpt.engines.ladder import engine
from microgpt.feed import pack
from microgpt.engines.common import compiling
from microgpt.engines.fused.jit import functions
from microgpt.model import init_weights

assert functions.INTERNALS is None
heard = []
compiling.listeners.append(lambda what, seconds: heard.append(what))
options = {"n_head": 4, "n_embd": 16, "position": "learned"}
model = Model(vocab_size=11, block_size=9, n_layer=2, init_std=0.4, **options)
feed = pack([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 3], [4, 4, 4]] * 2, rows_per_step=3)
tensors, found = init_weights(model, Random(0)), []
for name in ("manual", "fused"):
    e = engine(name)(model, Optim(), dtype="float64")
    state, losses = e.train(e.load(tensors), feed, np.full(2, 0.01))
    weights = e.dump(state)
    logits, cache = e.logits(e.load(tensors), np.arange(3))
    found.append((losses, logits, e.logits(e.load(tensors), np.array([7]), cache)[0], *weights.values()))
for ours, theirs in zip(*found):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
prompts, offsets = np.array([1, 2, 3]), np.array([0, 1, 3])
uniform = np.random.default_rng(0).random((2, 9))
text = {}
for given in (uniform, uniform[0]):
    tokens, ends, used = e.generate(e.load(tensors), prompts, offsets, 9, 0.7, given, 10)
    text[given.ndim] = tokens[: ends[1]].tolist()
assert text[1] == text[2] and len(text[1]) > 1, text
print(heard[0])
"""


def test_a_numba_that_does_not_fit_compiles_through_its_public_interface(tmp_path: Path) -> None:
    """Slower, said in one line, and not kept on disk; the numbers are the manual engine's."""
    # without optimization it takes half of the time, and is compiled the same way
    settings = {"MICROGPT_NUMBA": "public", "NUMBA_OPT": "0", "MICROGPT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", PUBLIC]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"the public interface of Numba {numba.__version__}" in done.stdout
    assert "cannot be kept on disk" in done.stdout
    assert not list(tmp_path.rglob("float*"))


def test_the_known_numba_fits_and_another_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numba_internals.check()
    monkeypatch.setattr(numba_internals, "KNOWN", (0, 1))
    assert functions._internals() is numba_internals
    monkeypatch.setattr(numba_internals.JITCPUCodegen, "create_library", lambda self, name: None)
    assert not numba_internals.check()
    assert functions._internals() is None


@pytest.mark.parametrize("lacking", ["numba.core.codegen", "numba.core.registry"])
def test_a_numba_without_these_modules_does_not_fit(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from microgpt.engines.fused import jit

    monkeypatch.delitem(sys.modules, numba_internals.__name__)
    monkeypatch.delattr(jit, "numba_internals")
    monkeypatch.setitem(sys.modules, lacking, ModuleType(lacking))  # without the names that are imported from it
    assert functions._internals() is None


def test_private_interfaces_are_used_in_one_file() -> None:
    package = Path(functions.__file__).parents[1]
    private = [path.name for path in package.rglob("*.py") if "numba.core" in path.read_text(encoding="utf-8")]
    assert private == ["numba_internals.py"]


def test_numba_told_not_to_compile_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(MachineError, match="NUMBA_DISABLE_JIT"):
        compiler.compile_kernels(KERNELS, "float32", no_progress)


def test_the_kernels_are_those_that_python_calls() -> None:
    assert tuple(kernel.__name__ for kernel in KERNELS) == code.NAMES
