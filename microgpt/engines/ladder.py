"""The registry: which engines there are, from the slowest, which is the definition, to the fastest; and the choice
of one for a model."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple

from microgpt.config import Model, Optim
from microgpt.engines import Engine, lora
from microgpt.errors import MachineError, UsageError, install, nearest
from microgpt.model import flops_per_token


class EngineInfo(NamedTuple):
    """The facts about an engine that are known before it is imported."""

    idea: str  # the one idea that its file teaches
    dtypes: tuple[str, ...]  # the float types that it computes in, the default first
    devices: tuple[str, ...]  # the devices that it computes on, the default first
    requires: str | None  # the module that must be installed
    overhead: float  # seconds per training step beside its arithmetic
    flops: float  # floating-point operations per second that its arithmetic reaches


# The two figures of each are fitted to what `python -m benchmarks.sizes` measured on one core of a server CPU with
# 512-bit vectors, 2,000 weights to 100 million.
LADDER: dict[str, EngineInfo] = {
    "scalar": EngineInfo("every number remembers where it came from", ("float64",), ("cpu",), None, 0.0, 6e6),
    "functional": EngineInfo("value and the way back; nothing is mutated", ("float64",), ("cpu",), None, 0.0, 8e7),
    "tensor": EngineInfo("one graph node per matrix", ("float32", "float64"), ("cpu",), None, 4e-4, 4.5e10),
    "manual": EngineInfo("no graph: the backward pass by hand", ("float32", "float64"), ("cpu",), None, 1.5e-4, 5e10),
    "fused": EngineInfo(
        "the manual pass as compiled SIMD loops", ("float32", "float64", "bfloat16"), ("cpu",), "numba", 2e-6, 1.8e11
    ),
    "pytorch": EngineInfo(
        "the chain rule as a library",
        ("float32", "float64", "bfloat16"),
        ("cuda", "mps", "cpu"),  # the first that this machine has
        "torch",
        7e-4,
        5e10,
    ),
}

# The names of the five systems that this project unites.
ALIASES = {"python": "scalar", "numpy": "manual", "numpy_batched": "manual", "numba": "fused", "torch": "pytorch"}

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
        self, model: Model, optim: Optim, *, threads: int = 0, lora_rank: int = 0, lora_alpha: float = 0.0
    ) -> Engine:
        """The engine for this model, inside one that trains adapters where `lora_rank` is above 0."""
        if not lora_rank:
            return self.cls(model, optim, dtype=self.dtype, device=self.device, threads=threads)
        return lora.Adapted(
            model,
            optim,
            dtype=self.dtype,
            device=self.device,
            threads=threads,
            inside=self.cls,
            rank=lora_rank,
            alpha=lora_alpha,
        )


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
) -> Choice:
    """The engine `name`, or for `auto` the one with the shortest estimated step that has the dtype and the device.

    Raises UsageError where the engine has not the dtype or device; MachineError where its library is missing.
    """
    work = flops_per_token(model) * (tokens_per_step + UPDATE)

    def seconds(rung: str) -> float:
        return LADDER[rung].overhead + work / LADDER[rung].flops

    def choice(rung: str, cls: type[Engine], why: str) -> Choice:
        numbers = LADDER[rung].dtypes[0] if dtype == "auto" else dtype
        place = _devices(rung)[0] if device == "auto" else device
        remark = cls.remark(model, numbers)
        return Choice(rung, cls, numbers, place, seconds(rung), f"{why}; {remark}" if remark else why)

    if name != "auto":
        rung, cls = ALIASES.get(name, name), engine(name)
        if problem := _problem(rung, dtype, device):
            raise UsageError(f"--engine {name}: {problem}")
        return choice(rung, cls, "as configured")

    reasons = []
    for rung in sorted(LADDER, key=seconds):
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


def _problem(rung: str, dtype: str, device: str) -> str | None:
    """The reason why an engine cannot compute in this dtype on this device, or None."""
    info = LADDER[rung]
    if dtype not in ("auto", *info.dtypes):
        return f"cannot compute in --dtype {dtype}, only in {' or '.join(info.dtypes)}"
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
