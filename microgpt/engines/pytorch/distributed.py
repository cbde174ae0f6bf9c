"""Several processes that train one model: collectives on flat tensors, one sum per step.

Every process has all weights and computes its rows of each step; the sum of the gradients, with the loss behind them,
is one all-reduce whatever the accumulation. With `shard` each keeps a part of Adam's moments, as in ZeRO (Rajbhandari
et al. 2020, arXiv:1910.02054): it gets its part of the gradient, updates its part of the weights, and all gather them.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from microgpt.engines import processes
from microgpt.errors import MachineError
from microgpt.json_text import dumps, loads
from microgpt.model import Tensors
from microgpt.terminal import flush

POLL = 0.02  # seconds between two looks at what the others have said
WATCH = 0.5  # seconds between two looks at the parent process
LEAVE = 2.0  # seconds that the first process, which has the store, waits for the others before it ends

# Newer names of the same two functions.
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def n_gpus() -> int:
    """The GPUs of this machine."""
    return torch.cuda.device_count()


@cache
def group() -> Group:
    """This process among all of its run, once they have found each other."""
    return Group()


class Group(processes.Processes):
    """See microgpt.engines.processes. Every method but `leads` must be called by all processes in the same order.

    Each raises MachineError where another process has ended, or has not answered within the timeout.
    """

    def __init__(self) -> None:
        self.rank, self.size = processes.environment()
        self.local = int(os.environ.get("LOCAL_RANK", "0"))  # among those of this machine
        self.n_local = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.size)))
        self.seconds = processes.timeout()
        self.calls = 0
        self._joined = self._has_lost = False
        threading.Thread(target=self._watch_parent, args=[_parent()], daemon=True).start()
        with self._lost():
            self.store = self._find_store()
            self.store.add("joined", 1)
            while self.store.add("joined", 0) < self.size:  # not in the library, which keeps signals waiting
                time.sleep(POLL)
            has_gpu = torch.cuda.is_available()
            backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
            options = {"rank": self.rank, "world_size": self.size, "timeout": timedelta(seconds=self.seconds)}
            if has_gpu and self.local < n_gpus():
                torch.cuda.set_device(self.local)
            dist.init_process_group(backend, store=self.store, **options)
        self._joined = True
        atexit.register(_leave)

    def _find_store(self) -> Any:
        """The key-value store of the run: at the first process, or at torchrun's agent."""
        wait = timedelta(seconds=self.seconds)
        if processes.LAUNCHER not in os.environ:
            return next(dist.rendezvous("env://", self.rank, self.size, timeout=wait))[0]
        place: tuple[Any, ...] = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), self.size, self.leads
        listener = {"master_listen_fd": int(os.environ[processes.LISTENER])} if self.leads else {}
        return dist.TCPStore(*place, timeout=wait, wait_for_workers=False, **listener)

    def _watch_parent(self, parent: int) -> None:
        """Where the parent process dies, nobody would end this one: take that for SIGTERM."""
        while os.getppid() == parent:
            time.sleep(WATCH)
        if self.leads or self._joined:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            os._exit(128 + signal.SIGTERM)  # perhaps within the library, which keeps signals waiting

    def leave(self) -> None:
        """Tell the others that this process asks nothing more; the first one waits until all have said so.

        Where one has been lost nobody is told: it may be a stopped first process, whose store does not answer.
        """
        if self._has_lost:
            return
        with suppress(RuntimeError):
            self.store.add("left", 1)
            until = time.monotonic() + (LEAVE if self.leads else 0.0)
            while time.monotonic() < until and self.store.add("left", 0) < self.size:
                time.sleep(POLL)

    def place(self, device: str) -> str:
        """The device of this process, where a run names its kind. Raises MachineError for more processes than GPUs."""
        if device != "cuda":
            return device
        if self.n_local > n_gpus():
            raise MachineError(
                f"{self.n_local} processes on {socket.gethostname()}: there are {n_gpus()} GPUs; "
                f"start one process per GPU, or take --device cpu"
            )
        return f"cuda:{self.local}"

    def largest(self, number: int) -> int:
        found = torch.tensor([number])
        with self._lost():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def decide(self, *numbers: float) -> list[float]:
        found = torch.tensor(numbers, dtype=torch.float64)
        with self._lost():
            dist.broadcast(found, 0)
        return found.tolist()

    def share(self, data: bytes = b"") -> bytes:
        key = self._key()
        with self._lost():
            if self.leads:
                self.store.set(key, data)
                return data
            self._wait_for(key)
            return bytes(self.store.get(key))

    def gather(self, text: str) -> list[str]:
        key = self._key()
        with self._lost():
            self.store.set(f"{key}-{self.rank}", text)
            keys = [f"{key}-{rank}" for rank in range(self.size)]
            for each in keys:
                self._wait_for(each)
            return [self.store.get(each).decode() for each in keys]

    def _key(self) -> str:
        self.calls += 1
        return f"call-{self.calls}"

    def _wait_for(self, key: str) -> None:
        while not self.store.check([key]):
            time.sleep(POLL)

    def share_tensors(self, tensors: Tensors) -> Tensors:
        header = {name: [list(a.shape), str(a.dtype)] for name, a in tensors.items()}
        shapes = loads(self.share(dumps(header).encode()).decode())
        out = {}
        with self._lost():
            for name, (shape, dtype) in shapes.items():
                one = torch.tensor(tensors[name]) if self.leads else torch.from_numpy(np.empty(shape, dtype))
                dist.broadcast(one, 0)
                out[name] = tensors[name] if self.leads else one.numpy()
        return out

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over all processes, in place."""
        with self._lost():
            dist.all_reduce(tensor)

    def part(self, flat: Tensor) -> tuple[int, int]:
        """The range of a flat tensor's numbers whose moments this process keeps; equal for all, beyond the end too."""
        size = -(-len(flat) // self.size)
        return self.rank * size, (self.rank + 1) * size

    def own(self, flat: Tensor) -> Tensor:
        """This process's part of a flat tensor, zeros beyond the end."""
        low, high = self.part(flat)
        part = flat[low:high]
        return torch.nn.functional.pad(part, (0, high - low - len(part)))

    def sum_own(self, flat: Tensor) -> Tensor:
        """This process's part of the sum of a flat tensor over all processes."""
        low, high = self.part(flat)
        part = flat.new_empty(high - low)
        with self._lost():
            _reduce_scatter(part, torch.nn.functional.pad(flat, (0, (high - low) * self.size - len(flat))))
        return part

    def whole(self, part: Tensor, n: int) -> Tensor:
        """A flat tensor of n numbers from the parts of all processes."""
        flat = part.new_empty(len(part) * self.size)
        with self._lost():
            _all_gather(flat, part)
        return flat[:n]

    @contextmanager
    def _lost(self) -> Iterator[None]:
        """Turn the library's errors into one line."""
        try:
            yield
        except RuntimeError as error:
            self._has_lost = True
            reason = re.sub(r"^\[.*?\] ?", "", str(error).splitlines()[0]).partition(". ")[0]  # its file and advice
            if "time" in reason.lower() and "out" in reason.lower():
                what = f"did not answer for {self.seconds:g} s: it is stopped, or its machine is gone"
            else:
                what = f"has ended ({reason[:120]})"
            message = f"another process of this run {what}; the last checkpoint is whole, continue with --resume"
            raise MachineError(message, "E_PROCESSES") from None


def _parent() -> int:
    return int(os.environ.get(processes.LAUNCHER, os.getppid()))


def end(status: int) -> None:
    """End this process at once, if it has joined others: the interpreter's own end takes PyTorch a second of CPU."""
    if group.cache_info().currsize:
        group().leave()
        flush()
        os._exit(status)


def _leave() -> None:
    with suppress(Exception):
        dist.destroy_process_group()
