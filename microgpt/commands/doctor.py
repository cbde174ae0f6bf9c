"""microgpt doctor"""

from __future__ import annotations

import platform
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from microgpt.commands import Switch
from microgpt.config import Model, Optim
from microgpt.data import datasets
from microgpt.engines.common import calibration
from microgpt.engines.common.compiling import compiler, verify_compiler
from microgpt.engines.common.hardware import cpu, pytorch
from microgpt.engines.ladder import LADDER, calibrate, choose, plan
from microgpt.errors import MicrogptError
from microgpt.terminal import count, output, output_json

COLUMNS, LABEL = 100, 10
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
        for label, sentence in sentences(facts):
            begin = f"{label:{LABEL}}"
            output(textwrap.fill(sentence, COLUMNS, initial_indent=begin, subsequent_indent=" " * LABEL, **AT_SPACES))
    verify_compiler()


def sentences(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts in words and rounded figures, each with its label; lines that go on have none."""
    cpu, jit, torch = facts["cpu"], facts["compiler"], facts["torch_library"]
    yield "python", f"{facts['python']} on {facts['system']}"
    products = " and bfloat16 products" if cpu["bfloat16"] else ""
    yield "cpu", f"{cpu['name']}, {count(cpu['cores'], 'core')}, vectors of {cpu['vector_bits']} bits{products}"
    for pool in facts["blas"]:
        version = ".".join(str(pool["version"]).split(".")[:3])
        threads = count(pool["num_threads"], "thread")
        yield "blas", f"{pool['internal_api']} {version} for {pool['architecture']}, {threads}"
    version, compiles = jit.values()
    works = "compiles" if compiles else "does not compile here"
    yield "compiler", f"Numba {version} {works}" if version else "Numba is not installed"
    devices = " and ".join(torch["devices"]) if torch else ""
    yield (
        "PyTorch",
        f"{torch['version']} on {devices}, {count(torch['threads'], 'thread')}" if torch else "not installed",
    )
    ready = [name for name, state in facts["engines"].items() if state == "ready"]
    yield "engines", f"{', '.join(ready)} are ready"
    for name, state in facts["engines"].items():
        if state != "ready":
            yield "", f"{name}: {state}"
    label = "speed"
    for engine, steps in _fastest(facts["engines"]).items():
        yield label, f"{engine}, {steps}"
        label = ""
    yield label, "(parameters and time per step; doctor --json has all of it, and the file that keeps it)"
    label = "auto"
    for size, choice in facts["auto"].items():
        yield label, f"{size}: {choice}"
        label = ""
    label, known = "plan", dict[str, int]()
    for what, fields in facts["plan"].items():  # the first whole, of the others what differs from it
        differs = {name: value for name, value in fields.items() if known.get(name) != value}
        yield label, f"{what}: {', '.join(f'{name} {value:,}' for name, value in differs.items()) or 'the same'}"
        label, known = "", known or fields
    label = "data"
    for folder, exists in facts["data_folders"].items():
        yield label, folder if exists else f"{folder} (not there)"
        label = ""
    yield "disk", f"{facts['disk_free_gb']:,.0f} GB are free here"


def _fastest(engines: Iterable[str]) -> dict[str, str]:
    """A line per engine: its times per step of the most tokens that were measured, in its fastest dtype; of models of
    many sizes the smallest, the largest, and one between."""
    said: dict[str, tuple[float, str]] = {}
    for name, figures in calibration.read().items():
        engine = name.split()[0]
        for tokens in sorted(calibration.TOKENS, reverse=True):
            measured = [(n, seconds) for n, points, _ in figures for at, seconds in points if at == tokens]
            if measured:
                shown = sorted({measured[0], measured[len(measured) // 2], measured[-1]})
                times = ", ".join(f"{_thousands(n)} {_short(seconds)}" for n, seconds in shown)
                fastest = measured[0][1] / tokens
                if engine not in said or fastest < said[engine][0]:
                    said[engine] = fastest, f"{tokens} tokens per step, {name.split()[1]}: {times}"
                break
    return {engine: said[engine][1] for engine in engines if engine in said}


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
        "plan": plans(),
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


def plans() -> dict[str, dict[str, int]]:
    """Sizes and crossovers of the engine for models of two widths, as a run would record them."""
    found = {}
    with suppress(MicrogptError):  # Numba is not installed, or does not compile
        for width in (128, 384):
            model = Model(vocab_size=65, n_layer=6, n_head=4, n_embd=width)
            choice = choose(model, Optim(), tokens_per_step=512.0)
            found[f"{choice.name} {choice.dtype}, {width} wide"] = plan(choice, model, 0.0)
    return {what: fields for what, fields in found.items() if fields}


def _short(seconds: float) -> str:
    """A time per step: 49 µs, 9.8 ms."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.{1 if seconds < 9.95 * size else 0}f} {unit}"
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
