"""What this machine has, and what microgpt would make of it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from pathlib import Path
from typing import Any

from microgpt.config import Model, Optim
from microgpt.data import datasets
from microgpt.engines.common.compiling import compiler
from microgpt.engines.common.hardware import cpu, pytorch
from microgpt.engines.ladder import LADDER, choose
from microgpt.errors import MicrogptError


def examine() -> dict[str, Any]:
    """Everything, as JSON."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu(),
        "blas": blas(),
        "compiler": compiler(),
        "torch_library": pytorch(),
        "engines": engines(),
        "auto": auto(),
        "data_folders": {str(folder): folder.is_dir() for folder in datasets.data_folders()},
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }


def blas() -> list[dict[str, Any]]:
    """The library behind NumPy's matrix products, its kernels and its threads."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    keys = ("internal_api", "version", "architecture", "num_threads")
    return [{key: pool.get(key) for key in keys} for pool in threadpool_info() if pool.get("user_api") == "blas"]


def engines() -> dict[str, str]:
    """Which rungs can be used, and what the others lack."""
    missing = {name: rung.requires for name, rung in LADDER.items()}
    return {
        name: "ready" if not needed or importlib.util.find_spec(needed) else f"{needed} is not installed"
        for name, needed in missing.items()
    }


def auto() -> dict[str, str]:
    """What --engine auto takes for models of three sizes."""
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
