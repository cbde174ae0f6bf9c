"""The kernels that Python calls, by their names; see jit.code.Kernels."""

from __future__ import annotations

from microgpt.engines.fused.decode import decode
from microgpt.engines.fused.generate import generate
from microgpt.engines.fused.generate_batch import generate_batch
from microgpt.engines.fused.train import train

KERNELS = (train, decode, generate, generate_batch)
DECODING = (decode, generate)  # compiled for int8 too; its other kernels are those of float32
