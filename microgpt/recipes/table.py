"""The table of choices: for texts of some lengths, and some numbers of tokens, the shape and the training.

`benchmarks/recipes/MEASURED.md` says what measured each row. `tokens` is the length of the training that a row is made
for; a machine that trains fewer in the time takes another row.
"""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """A shape and its training, for a text of about `bytes` of which `tokens` are trained in the time."""

    bytes: float
    tokens: float
    vocabulary: int
    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    rows: int
    learning_rate: float
    dropout: float
    weight_decay: float


KB, MB, M = 1e3, 1e6, 1e6

TEXT = (
    Recipe(10 * KB, 0.2 * M, 640, 2, 48, 4, 64, 8, 8e-3, 0.4, 0.8),
    Recipe(50 * KB, 0.5 * M, 1024, 4, 64, 4, 128, 8, 8e-3, 0.3, 0.8),
    Recipe(150 * KB, 0.5 * M, 2048, 4, 96, 4, 128, 8, 12e-3, 0.3, 0.8),
    Recipe(150 * KB, 1.8 * M, 512, 4, 128, 4, 128, 16, 8e-3, 0.4, 0.8),
    Recipe(400 * KB, 0.5 * M, 2048, 4, 96, 4, 128, 8, 8e-3, 0.05, 0.8),
    Recipe(400 * KB, 2.0 * M, 2048, 4, 128, 4, 128, 16, 8e-3, 0.2, 0.8),
    Recipe(400 * KB, 4.0 * M, 2048, 4, 128, 4, 128, 16, 8e-3, 0.4, 0.8),
    Recipe(1 * MB, 0.7 * M, 4096, 4, 64, 4, 128, 8, 8e-3, 0.0, 0.1),
    Recipe(1 * MB, 2.0 * M, 2048, 4, 128, 4, 128, 16, 8e-3, 0.05, 0.3),
    Recipe(1 * MB, 6.0 * M, 2048, 4, 192, 6, 128, 16, 5e-3, 0.25, 0.8),
    Recipe(10 * MB, 0.7 * M, 4096, 4, 64, 4, 128, 16, 8e-3, 0.0, 0.1),
    Recipe(10 * MB, 2.0 * M, 4096, 4, 96, 4, 128, 16, 5e-3, 0.0, 0.1),
    Recipe(10 * MB, 7.0 * M, 4096, 4, 128, 4, 128, 16, 5e-3, 0.0, 0.1),
    Recipe(10 * MB, 25.0 * M, 4096, 4, 192, 6, 128, 16, 3e-3, 0.05, 0.1),
)

CHAT = (
    Recipe(60 * KB, 0.6 * M, 1024, 4, 64, 4, 256, 8, 8e-3, 0.2, 0.8),
    Recipe(300 * KB, 0.8 * M, 2048, 4, 64, 4, 256, 8, 8e-3, 0.2, 0.8),
    Recipe(3 * MB, 0.7 * M, 4096, 4, 64, 4, 256, 8, 6e-3, 0.0, 0.1),
    Recipe(3 * MB, 1.5 * M, 4096, 4, 96, 4, 256, 8, 6e-3, 0.0, 0.1),
    Recipe(3 * MB, 5.0 * M, 4096, 4, 128, 4, 256, 8, 5e-3, 0.15, 0.3),
)

SHORT_LINES = (
    Recipe(200 * KB, 2.0 * M, 0, 2, 64, 4, 32, 64, 5e-3, 0.0, 0.1),
    Recipe(200 * KB, 10.0 * M, 0, 4, 96, 4, 32, 64, 3e-3, 0.1, 0.1),
)
