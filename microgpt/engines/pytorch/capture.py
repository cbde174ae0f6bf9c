"""CUDA graphs: a function's kernels are recorded once, and launched together in every later call."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

WARM = 11  # calls before the capture: libraries allocate, compilers compile and tune; a short training captures nothing


class Replay:
    """A function of no arguments that reads and writes the same tensors in each call; captured on a GPU.

    It may wait for nothing, and Python's numbers that it computes with must stay the same. The first calls run on a
    stream of their own, as PyTorch's documentation of CUDA graphs asks, and the capture on the same one. Where that
    fails, a RuntimeWarning says why, and the function goes on being called. Without a `device` it is only called.
    """

    def __init__(self, function: Callable[[], object], device: str | None) -> None:
        self.function, self.device, self.calls = function, device, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = None if device is None else torch.cuda.Stream(device)

    def __call__(self) -> None:
        if self.graph:
            self.graph.replay()
        elif self.stream is None:
            self.function()
        elif self.calls < WARM:
            self.calls += 1
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                self.function()
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        else:
            self._capture(self.stream)
            self()

    def _capture(self, stream: torch.cuda.Stream) -> None:
        """Record the function, which computes nothing meanwhile."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                self.function()
            self.graph = graph
        except RuntimeError as error:
            self.stream = None
            reason = str(error).partition("\n")[0]
            warnings.warn(f"no CUDA graph: {self.device} computes without ({reason})", RuntimeWarning, stacklevel=3)
