"""microgpt doctor"""

from __future__ import annotations

import platform
import shutil
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
            lines = _lines(found)
            output(f"{subject.replace('_', ' '):14} {lines[0]}")
            for line in lines[1:]:
                output(f"{'':14} {line}")
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
    """Measured microseconds per training step, which --engine auto and expected times are reckoned from."""
    calibrate()
    found = {
        f"{name}, {tokens:,} tokens per step": "; ".join(
            f"{1e6 * seconds:,.1f} µs with {parameters:,} parameters"
            for parameters, points, _ in figures
            for at, seconds in points
            if at == tokens
        )
        for name, figures in calibration.read().items()
        for tokens in calibration.TOKENS
    }
    return found | {"kept in": f"{calibration.path()} (remove it to measure anew)"}


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
