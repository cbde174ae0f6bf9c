"""Training on the device that is here: tokens per second of the pytorch engine against a plain compiled loop.

    python -m benchmarks.gpu                                    all sizes, under ten minutes on a GPU
    python -m benchmarks.gpu --sizes names 1.25M --seconds 2    some of them, as on a CPU

The loop is the one that nanoGPT made common: a module under torch.compile, the library's attention, fused Adam. Both
sides compute the same model and take the same steps, and their losses are compared before any counts.

The share of the peak counts 6 N + 12 L D T operations per token (Chowdhery et al. 2022, arXiv:2204.02311, appendix B)
against a large matrix product in the same float type on the same device, measured at the start. A vendor's figure is
higher than any product reaches, so the share of that one would be lower.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Row, arguments, chosen, describe, machine, markdown, ratio, say
from benchmarks.peers.torch_gpt import GPT
from benchmarks.race import same_losses
from benchmarks.work import TEN_MILLION, VIDYA, Work, synthetic
from microgpt.config import Model
from microgpt.engines.ladder import engine
from microgpt.model import n_params

STEPS = 8  # in one call of either side, after which the host reads the losses
RTOL = {"bfloat16": 0.05, "float32": 1e-3}  # how far the losses of those steps may be apart


@dataclass(frozen=True)
class Size:
    """A model, the rows of a step, those computed at once, and the targets on a GPU, where there are any."""

    model: Model
    rows: int
    micro_batch_size: int
    times: float | None = None  # as fast as the plain loop
    share: float | None = None  # of the peak, in percent


GPT2 = Model(
    vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768, activation="gelu", norm_embedding=False,
    final_norm=True, tie_embeddings=True, init_std=0.02, residual_init="scaled",
)  # fmt: skip
SIZES = {
    "names": Size(Model(vocab_size=27), 64, 64),
    "1.25M": Size(VIDYA, 16, 16, times=10.0),
    "10.7M": Size(TEN_MILLION, 64, 64),
    "124M": Size(GPT2, 64, 16, share=45.0),
}


@dataclass(frozen=True)
class Place:
    """Where and how both sides compute."""

    device: str
    dtype: str
    compiled: bool = True  # the plain loop
    limit: float = 540.0  # seconds in all: a size that would begin later is left out

    @property
    def is_gpu(self) -> bool:
        """Whether figures count against the targets."""
        return self.device.startswith("cuda")


def flops_per_token(model: Model) -> float:
    """Operations to train on one token of a full row, attention included."""
    return 6.0 * n_params(model) + 12.0 * model.n_layer * model.n_embd * model.block_size


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def peak(place: Place, n: int, seconds: float = 1.0) -> float:
    """Operations per second of the fastest of some products of two n x n matrices."""
    a = torch.randn(n, n, device=place.device, dtype=getattr(torch, place.dtype))
    b, best, end = torch.randn_like(a), 0.0, time.perf_counter() + seconds
    while not best or time.perf_counter() < end:
        wait(place.device)
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        wait(place.device)
        best = max(best, 4 * 2.0 * n**3 / (time.perf_counter() - start))
    return best


def ours(work: Work, place: Place) -> Callable[[], np.ndarray]:
    """The steps of our engine; each call goes on from the last."""
    it = engine("pytorch")(work.model, work.optim, dtype=place.dtype, device=place.device)
    state = it.load(work.tensors)

    def train() -> np.ndarray:
        nonlocal state
        state, losses = it.train(state, work.feed, work.lrs)
        return losses

    return train


def plain(work: Work, place: Place) -> Callable[[], np.ndarray]:
    """The same steps in the plain loop."""
    module: Any = GPT(work.model, work.tensors, sdpa=True).to(place.device)
    step: Any = torch.compile(module, dynamic=False) if place.compiled else module
    optim, kind, half = work.optim, place.device.partition(":")[0], place.dtype == "bfloat16"
    adam = torch.optim.Adam(module.parameters(), betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
    inputs, targets, _ = work.rectangles()
    size = work.feed.micro_batch_size
    parts = [slice(at, at + size) for at in range(0, inputs.shape[1], size)]
    batches = [
        [[torch.tensor(a[s, p], dtype=torch.long) for a in (inputs, targets)] for p in parts] for s in range(STEPS)
    ]
    if place.is_gpu:
        batches = [[[a.pin_memory() for a in pair] for pair in step_batches] for step_batches in batches]

    def train() -> np.ndarray:
        losses = []
        for step_batches, lr in zip(batches, work.lrs.tolist(), strict=True):
            adam.param_groups[0]["lr"] = lr
            total = torch.zeros((), device=place.device)
            for pair in step_batches:
                x, y = (a.to(place.device, non_blocking=True) for a in pair)
                with torch.autocast(kind, torch.bfloat16, enabled=half):
                    loss = step(x, y) / len(step_batches)
                loss.backward()
                total += loss.detach()
            adam.step()
            adam.zero_grad(set_to_none=True)
            losses.append(total)
        return torch.stack(losses).double().cpu().numpy()

    return train


def speed(train: Callable[[], np.ndarray], tokens: int, seconds: float) -> tuple[float, np.ndarray]:
    """Tokens per second within about `seconds`, and the losses of the first call, which compiles and isn't timed."""
    losses, calls, start = train(), 0, time.perf_counter()
    while not calls or time.perf_counter() - start < seconds:
        train()
        calls += 1
    return calls * tokens / (time.perf_counter() - start), losses


def side(
    name: str, build: Callable[[Work, Place], Callable[[], np.ndarray]], work: Work, place: Place, seconds: float
) -> tuple[float | None, np.ndarray, str]:
    """One side's tokens per second and first losses; or None with the reason where it cannot run here."""
    tokens = work.feed.n_targets
    try:
        rate, losses = speed(build(work, place), tokens, seconds)
        say(f"  {name}: {rate:,.0f} tokens/s")
        return rate, losses, ""
    except Exception as error:
        if build is ours and not isinstance(error, torch.OutOfMemoryError):
            raise
        reason = f"{name} cannot run here ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
        say(f"  {reason}")
        return None, np.zeros(0), reason
    finally:
        if place.compiled:
            torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()


def tiny(size: Size) -> Size:
    """The same options in the smallest shape, for a test."""
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}
    return replace(size, model=size.model.model_copy(update=shape), rows=4, micro_batch_size=2)


def measure(names: Sequence[str], place: Place, options: Options) -> list[Row]:
    """Two rows per size: against the plain loop, and against the peak."""
    start, rows = time.perf_counter(), []
    n = 64 if options.quick else 8192 if place.is_gpu else 1024
    top = peak(place, n, options.seconds / 5)
    say(f"{place.dtype} products on {place.device}: {top / 1e12:.3g} TFLOP/s")
    for name in names:
        size = tiny(SIZES[name]) if options.quick else SIZES[name]
        judged = place.is_gpu and not options.quick
        work = f"{name}, {size.rows} x {size.model.block_size} per step, {place.dtype}"
        race = Row(work, "plain compiled loop" if place.compiled else "plain loop, eager", "tokens/s")
        share = Row(work, "measured peak", "TFLOP/s", theirs=top / 1e12, scale="%")
        if judged:
            race, share = replace(race, target=size.times), replace(share, target=size.share)
        if time.perf_counter() - start > place.limit:
            rows += [replace(row, note="not measured: no time was left") for row in (race, share)]
            continue
        say(f"{name}:")
        same = synthetic(size.model, size.rows, STEPS)
        same = replace(same, feed=replace(same.feed, micro_batch_size=size.micro_batch_size))
        fast, losses, note = side("pytorch engine", ours, same, place, options.seconds)
        slow = None
        if options.peers:
            slow, theirs, reason = side("plain loop", plain, same, place, options.seconds)
            same_losses("the plain loop", theirs, losses, RTOL[place.dtype])
            note = note or reason
        done = None if fast is None else fast * flops_per_token(size.model) / 1e12
        rows.append(replace(race, ours=fast, theirs=slow, value=ratio(fast, slow), note=note))
        rows.append(replace(share, ours=done, value=100 * done / (top / 1e12) if done else None, note=note))
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.set_defaults(engine="pytorch", seconds=15.0)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="which models (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=RTOL, help="default: bfloat16 on a GPU, float32 elsewhere")
    parser.add_argument("--no-compile", dest="compiled", action="store_false", help="the plain loop without a compiler")
    args = parser.parse_args()
    gpu = args.device.startswith("cuda")
    place = Place(args.device, args.dtype or ("bfloat16" if gpu else "float32"), args.compiled)
    rows, where = measure(args.sizes, place, chosen(args)), machine()
    name = torch.cuda.get_device_name(args.device) if gpu else where["cpu"]
    if args.json:
        found = [{**asdict(row), "met": row.met} for row in rows]
        print(json.dumps({"machine": where, "device": name, "rows": found}))
    else:
        print(f"{name}; {describe(where)}\ncommit {where['commit']}, {where['date']}\n\n{markdown(rows)}", end="")


if __name__ == "__main__":
    main()
