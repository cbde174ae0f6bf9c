"""The registry: which engines there are, from the slowest, which is the definition, to the fastest; and the choice
of one for a model."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

from microgpt.config import Finetune, Model, Optim
from microgpt.engines import Engine, lora
from microgpt.engines.common import calibration
from microgpt.engines.processes import ALONE, Processes
from microgpt.errors import MachineError, UsageError, install, nearest
from microgpt.model import n_params
from microgpt.progress import ProgressCallback, no_progress


class EngineInfo(NamedTuple):
    """The facts about an engine that are known before it is imported."""

    idea: str  # the one idea that its file teaches
    dtypes: tuple[str, ...]  # the float types that it computes in, the default first
    devices: tuple[str, ...]  # the devices that it computes on, the default first
    requires: str | None  # the module that must be installed
    overhead: float  # seconds per training step beside its arithmetic, until it is measured on this machine
    flops: float  # floating-point operations per second that its arithmetic reaches, until it is measured
    planned: bool = False  # it takes a plan of sizes and crossovers, see Engine.plan
    kept: int = 0  # numbers per position, layer and width that it keeps of a whole micro-batch; 0: it divides those
    infers: tuple[str, ...] = ()  # further types of weights, in which it computes texts but does not train
    shares: bool = False  # whether several processes can train one model with it
    unlocked: bool = False  # whether it trains outside Python's lock, so that threads can train several models at once
    prefers_bfloat16: bool = False  # whether bfloat16 is its fastest type wherever its `remark` has nothing against it


# Two norms, queries, keys, values, their mix, and the inner layer of four widths before and after its activation. The
# weights of attention, which not every engine keeps, are left out.
KEPT = 6 + 2 * 4

# The two figures of each are fitted to what `python -m benchmarks.sizes` measured on one core of a server CPU with
# 512-bit vectors, 2,000 weights to 100 million. They serve until `calibrate` has measured this machine.
LADDER: dict[str, EngineInfo] = {
    "scalar": EngineInfo("autograd on single numbers", ("float64",), ("cpu",), None, 0.0, 6e6),
    "functional": EngineInfo(
        "each function returns its backward; nothing is mutated", ("float64",), ("cpu",), None, 0.0, 8e7
    ),
    "tensor": EngineInfo("one graph node per matrix", ("float32", "float64"), ("cpu",), None, 4e-4, 4.5e10, kept=KEPT),
    "manual": EngineInfo(
        "no graph: the backward pass written by hand", ("float32", "float64"), ("cpu",), None, 1.5e-4, 5e10, kept=KEPT
    ),
    "fused": EngineInfo(
        "the manual pass as compiled SIMD loops",
        ("float32", "float64", "bfloat16"),
        ("cpu",),
        "numba",
        2e-6,
        1.8e11,
        planned=True,
        infers=("int8",),
        unlocked=True,
        prefers_bfloat16=True,
    ),
    "pytorch": EngineInfo(
        "autograd from a library",
        ("float32", "float64", "bfloat16"),
        ("cuda", "mps", "cpu"),  # the first that this machine has
        "torch",
        7e-4,
        5e10,
        kept=KEPT,
        shares=True,
    ),
}

# The names of the five systems that this project unites.
ALIASES = {"python": "scalar", "numpy": "manual", "numpy_batched": "manual", "numba": "fused", "torch": "pytorch"}

GPU = "cuda"  # a device on which several small models fit side by side

WORTH_A_SEARCH = 60.0  # seconds of training ahead from which 5 seconds of measuring pay

# The cost of updating all weights, in tokens trained: it moves 28 bytes per weight while the products do arithmetic.
UPDATE = 16


class Choice(NamedTuple):
    """An engine that can compute the model, and the reason for taking it."""

    name: str
    cls: type[Engine]
    dtype: str
    device: str
    seconds_per_step: float  # estimated
    why: str

    def build(
        self,
        model: Model,
        optim: Optim,
        *,
        threads: int = 0,
        tuned: Finetune | None = None,
        processes: Processes = ALONE,
        plan: Mapping[str, int] | None = None,
        deterministic: bool = True,
    ) -> Engine:
        """The engine for this model, inside one that trains adapters where `tuned` asks for them; `plan` as recorded.

        Of several processes each builds its own; they then train together. Without `deterministic`, a GPU may use
        algorithms that give other bits each time.
        """
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device, "threads": threads}
        if processes.size > 1:
            options["processes"] = processes
        if not deterministic and GPU in LADDER[self.name].devices:
            options["deterministic"] = False
        if plan and LADDER[self.name].planned:
            options["plan"] = plan
        if tuned is None or not tuned.lora_rank:
            return self.cls(model, optim, **options)
        return lora.Adapted(model, optim, inside=self.cls, rank=tuned.lora_rank, alpha=tuned.alpha, **options)


def engine(name: str) -> type[Engine]:
    """The class of an engine. Raises UsageError for an unknown name, MachineError where its library is missing."""
    rung = ALIASES.get(name, name)
    if rung not in LADDER:
        raise UsageError(f"--engine: no engine is called {name!r}; {nearest(name, {**LADDER, **ALIASES})}")
    needed = LADDER[rung].requires
    if needed and not importlib.util.find_spec(needed):
        raise MachineError(f"--engine {name}: {needed} is not installed; {install(needed)}")
    cls: type[Engine] = importlib.import_module(f"microgpt.engines.{rung}").Engine
    return cls


def choose(
    model: Model,
    optim: Optim,
    *,
    name: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    tokens_per_step: float = 1.0,
    rows_per_step: int = 1,
    shared: bool = False,
) -> Choice:
    """The engine `name`, or for `auto` the one with the shortest estimated step that has the dtype and the device;
    with `shared` it is one that several processes can train together.

    Raises UsageError where the engine has not the dtype or device; MachineError where its library is missing.
    """
    figures = calibration.read()

    def seconds(rung: str) -> float:
        return _seconds(figures, rung, dtype, device, n_params(model), tokens_per_step, rows_per_step)

    def choice(rung: str, cls: type[Engine], why: str) -> Choice:
        numbers, place = _defaults(rung, dtype, device)
        remark = cls.remark(model, numbers)
        return Choice(rung, cls, numbers, place, seconds(rung), f"{why}; {remark}" if remark else why)

    if name != "auto":
        rung, cls = ALIASES.get(name, name), engine(name)
        if problem := _problem(rung, dtype, device, shared):
            raise UsageError(f"--engine {name}: {problem}")
        return choice(rung, cls, "as configured")

    reasons = []
    for rung in sorted((rung for rung, info in LADDER.items() if info.shares or not shared), key=seconds):
        try:
            cls = engine(rung)
        except MachineError:
            reasons.append(f"{rung} is not installed")
            continue
        if problem := _problem(rung, dtype, device):
            reasons.append(f"{rung} {problem}")
            continue
        return choice(rung, cls, "the fastest for this model here" + (f" ({'; '.join(reasons)})" if reasons else ""))
    raise UsageError(f"--engine auto: no engine can do this: {'; '.join(reasons)}")


def lanes(name: str, device: str) -> type[Any] | None:
    """The class that trains models of one shape as one on a GPU; None where none is asked for.

    A GPU that is there is asked for by `device`, or by an engine whose default it is. Raises MachineError where a
    library is missing.
    """
    if name == "auto" and not device.startswith(GPU):
        return None
    for rung in (rung for rung, info in LADDER.items() if info.shares and ALIASES.get(name, name) in ("auto", rung)):
        engine(rung)
        if GPU in _devices(rung) and _defaults(rung, "auto", device)[1].startswith(GPU):
            found: type[Any] = importlib.import_module(f"microgpt.engines.{rung}.lanes").Lanes
            return found
    return None


def inspecting(model: Model, optim: Optim, dtype: str) -> Engine:
    """An engine that has the contract's `inspect`, in a dtype of weights: float32 or float64.

    It uses one thread: a second gains little on one text, and waits long for its turn beside a training.
    """
    for rung, info in LADDER.items():
        if dtype in info.dtypes and not info.requires and engine(rung).inspect is not Engine.inspect:
            return engine(rung)(model, optim, dtype=dtype, threads=1)
    raise UsageError(f"no engine shows its activations in {dtype}; convert the weights to float32")


def calibrate(
    name: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    progress: ProgressCallback = no_progress,
    *,
    anew: bool = False,
) -> None:
    """Measure how fast an engine, or for `auto` each that may be chosen, trains on this machine, unless it was.

    `choose` then estimates from that. An engine that cannot be used here is left out: `choose` says why.
    """
    rungs = [ALIASES.get(name, name)] if name != "auto" else [rung for rung in LADDER if _may_be_fastest(rung)]
    for rung in rungs:
        try:
            cls = engine(rung)
            if _problem(rung, dtype, device):
                continue
            key = calibration.key(rung, *_defaults(rung, dtype, device))
            if anew or key not in calibration.read():
                progress(f"measure the speed of {rung} on this machine, once", None)
                calibration.write(key, calibration.measure(cls, *_defaults(rung, dtype, device)))
        except (MachineError, UsageError):
            continue


def plan(choice: Choice, model: Model, seconds: float, progress: ProgressCallback = no_progress) -> dict[str, int]:
    """The engine's plan for this machine; measured first, once, where so many `seconds` of training are ahead."""
    if not LADDER[choice.name].planned:
        return {}
    if seconds >= WORTH_A_SEARCH:
        importlib.import_module(f"microgpt.engines.{choice.name}.tuning").measure(
            choice.cls, choice.dtype, model, progress
        )
    return choice.cls.plan(model, choice.dtype)


def _may_be_fastest(rung: str) -> bool:
    """Not an engine on Python's own floats, nor one whose library takes seconds to import."""
    return "float32" in LADDER[rung].dtypes and len(LADDER[rung].devices) == 1


def _seconds(
    figures: dict[str, calibration.Figures], rung: str, dtype: str, device: str, size: int, tokens: float, rows: int
) -> float:
    """The estimated seconds per step: as measured, else as stated in LADDER at the pace of the engines measured."""

    def stated(rung: str) -> float:
        info = LADDER[rung]
        slower = 2 if dtype == "float64" and info.dtypes[0] != "float64" else 1
        return slower * (info.overhead + 6 * size * (tokens + UPDATE) / info.flops)

    def measured(rung: str) -> float | None:
        numbers = LADDER[rung].dtypes[0] if dtype == "auto" else dtype
        places = LADDER[rung].devices if device == "auto" else (device,)
        found = (figures.get(calibration.key(rung, numbers, place)) for place in places)
        return next((calibration.estimate(each, size, tokens, rows) for each in found if each), None)

    if known := measured(rung):
        return known
    paces = [known / stated(other) for other in LADDER if (known := measured(other))]
    return stated(rung) * (median(paces) if paces else 1.0)


def _defaults(rung: str, dtype: str, device: str) -> tuple[str, str]:
    """The dtype and the device for what is asked for."""
    return (LADDER[rung].dtypes[0] if dtype == "auto" else dtype, _devices(rung)[0] if device == "auto" else device)


def _problem(rung: str, dtype: str, device: str, shared: bool = False) -> str | None:
    """The reason why an engine cannot compute in this dtype on this device, or None."""
    info = LADDER[rung]
    if shared and not info.shares:
        able = " or ".join(name for name, other in LADDER.items() if other.shares)
        return f"cannot train in several processes, only {able} can"
    if dtype not in ("auto", *info.dtypes, *info.infers):
        return f"cannot compute in --dtype {dtype}, only in {' or '.join(info.dtypes + info.infers)}"
    if device.partition(":")[0] not in ("auto", *info.devices):
        return f"cannot compute on --device {device}, only on {' or '.join(info.devices)}"
    if device != "auto" and device.partition(":")[0] not in _devices(rung):
        return f"finds no {device} on this machine, only {' and '.join(_devices(rung))}"
    return None


def _devices(rung: str) -> tuple[str, ...]:
    """The devices of an engine that this machine has; the module of an engine with several has `devices()`."""
    known = LADDER[rung].devices
    if len(known) == 1:
        return known
    here: tuple[str, ...] = importlib.import_module(f"microgpt.engines.{rung}").devices()
    return here
