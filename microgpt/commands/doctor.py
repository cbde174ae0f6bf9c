"""microgpt doctor"""

from __future__ import annotations

import platform
import shutil
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from microgpt.commands import Switch
from microgpt.config import Model, Optim
from microgpt.data import datasets
from microgpt.engines.common import calibration
from microgpt.engines.common.compiling import compiler, verify_compiler
from microgpt.engines.common.hardware import cpu, pytorch
from microgpt.engines.ladder import LADDER, calibrate, choose
from microgpt.errors import MicrogptError
from microgpt.terminal import output, output_json

COLUMNS = 100
AT_SPACES: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def doctor(*, json: Switch = False) -> None:
    """Report the CPU, libraries and engines of this machine.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    facts = examine()
    if json:
        output_json(facts)
    else:
        for subject, found in facts.items():
            label = f"{subject.replace('_', ' '):14} "
            for line in _lines(found):
                output(textwrap.fill(line, COLUMNS, initial_indent=label, subsequent_indent=f"{'':17}", **AT_SPACES))
                label = f"{'':15}"
    verify_compiler()


def _lines(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [f"{key}: {value}" for key, value in found.items()]
    if isinstance(found, list):
        return [", ".join(f"{key} {value}" for key, value in entry.items()) for entry in found] or ["none found"]
    return ["not installed" if found is None else str(found)]


def examine() -> dict[str, Any]:
    """All facts by subject, ready for JSON."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu(),
        "blas": blas(),
        "compiler": compiler(),
        "torch_library": pytorch(),
        "engines": engines(),
        "speed": speed(),
        "auto": auto(),
        "data_folders": {str(folder): folder.is_dir() for folder in datasets.data_folders()},
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }


def blas() -> list[dict[str, Any]]:
    """The libraries behind NumPy's matrix products: kernels and threads."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    keys = ("internal_api", "version", "architecture", "num_threads")
    return [{key: pool.get(key) for key in keys} for pool in threadpool_info() if pool.get("user_api") == "blas"]


def engines() -> dict[str, str]:
    """For each engine, whether it is ready or the library it lacks."""
    return {
        name: f"{info.requires} is not installed" if info.requires and not find_spec(info.requires) else "ready"
        for name, info in LADDER.items()
    }


def speed() -> dict[str, str]:
    """Measured times per training step, which --engine auto and expected times are reckoned from."""
    calibrate()
    found = {"time per step": "by tokens per step and parameters of the model"}
    for name, figures in calibration.read().items():
        for tokens in calibration.TOKENS:
            measured = [(n, seconds) for n, points, _ in figures for at, seconds in points if at == tokens]
            if measured:
                times = ", ".join(f"{_thousands(n)}: {_short(seconds)}" for n, seconds in measured)
                found[f"{name}, {tokens:,} tokens"] = times
    return found | {"kept in": f"{calibration.path()} (remove it to measure anew)"}


def _short(seconds: float) -> str:
    """A time per step: 48.9 µs, 9.8 ms."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.95 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _thousands(n: int) -> str:
    """A number of parameters: 4 K, 1.3 M."""
    return f"{n / 1e3:.0f} K" if n < 999_500 else f"{n / 1e6:.1f} M"


def auto() -> dict[str, str]:
    """The choice of --engine auto for models of three sizes."""
    sizes = {
        "names (4 K parameters)": (Model(vocab_size=27), 7.0),
        "1 M parameters": (Model(vocab_size=580, n_layer=6, n_embd=128, n_head=8, block_size=128), 128.0),
        "10 M parameters": (Model(vocab_size=65, n_layer=6, n_embd=384, n_head=6, block_size=256), 1024.0),
    }
    found = {}
    for size, (model, tokens) in sizes.items():
        try:
            choice = choose(model, Optim(), tokens_per_step=tokens)
            found[size] = f"{choice.name} in {choice.dtype}: {choice.why}"
        except MicrogptError as error:
            found[size] = str(error)
    return found
