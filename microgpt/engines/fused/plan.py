"""The plan: sizes and crossovers of the kernels, reckoned from what the system tells of this machine.

Kernels take a plan as an argument, so one compiled code serves every plan; tuning.py measures the fields whose best
value no cache size tells. For a fixed plan results are bit-identical from run to run. Only `depth`, `positions`,
`threads` and the fields of a deferred update change the order of sums, so another plan's results differ by rounding.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import NamedTuple

from microgpt.engines.common.hardware import cache_sizes, cores
from microgpt.errors import UsageError

PAIR = 2  # vectors per row of a full tile, and of a panel
MAX_FIELD = 1 << 24
COMPILED = ("vector", "rows", "vectors")  # the fields that are constants of compiled code


class Plan(NamedTuple):
    """Sizes in numbers of the engine's float type unless noted. A field that is measured says so."""

    vector: int  # bytes of one, the CPU's widest unless narrower ones are faster: measured; a constant of compiled code
    rows: int  # of a tile: its sums, rows x vectors, fill the registers beside a row of W; as vector
    vectors: int  # per row of a tile, as many as a panel has: each number of A that is read serves all; as vector
    near: int  # numbers that stay in the level 1 cache beside others: a part of a matrix that is transposed
    deep: int  # numbers that stay in the level 2 cache beside others: a row's queries, keys and values; a next operand
    positions: int  # per micro-batch: more of them share the reading of weights, fewer stay in the cache; measured
    depth: int  # positions per block of a weight's gradient: a panel of them stays in the level 2 cache
    pack: int  # an operand of a weight's gradient is copied into panels, read without jumps, where the other operand is
    # at least this wide: the copy is read that often; measured, since systems do not tell what jumps cost
    long: int  # positions of a row from which its queries, keys and values are a product of its own
    prefetch: int  # 1: products prefetch the next operands; 0: the CPU's own prefetching is enough; measured
    min_deferred: int  # weights from which an update waits for the next step's first reading: fewer stay in the cache
    max_deferred: int  # and up to which: more are limited by the memory's bandwidth; measured, 0 where waiting loses
    threaded: int  # weights from which several threads are faster than one
    threads: int  # the cores that the process may use

    def with_fields(self, given: Mapping[str, int]) -> Plan:
        """The same with some fields as recorded elsewhere; those of compiled code stay its own. Raises UsageError."""
        for name, value in given.items():
            if name not in self._fields or not int(name not in ("prefetch", "max_deferred")) <= value <= MAX_FIELD:
                raise UsageError(
                    f"run.toml: plan.{name} = {value}: expected one of {', '.join(self._fields)}, 1 to {MAX_FIELD}; "
                    f"remove the section plan to have this machine's"
                )
        return self._replace(**{name: int(value) for name, value in given.items() if name not in COMPILED})


def tile_rows(vector: int) -> int:
    """Rows of a tile two vectors wide, on a CPU with vectors of so many bytes.

    32 registers hold 16 sums beside two vectors of W and what is prefetched, 16 registers hold 12.
    """
    return 8 if vector == 64 or platform.machine() in ("aarch64", "arm64") else 6


def reckoned(itemsize: int, vector: int) -> Plan:
    """The plan of this machine by its caches, for numbers of `itemsize` bytes in vectors of `vector` bytes."""
    sizes = cache_sizes()
    return Plan(
        vector=vector,
        rows=tile_rows(vector),
        vectors=PAIR,
        near=sizes[1] * 2 // 3 // itemsize,
        deep=sizes[2] // 4 // itemsize,
        positions=512,
        depth=256,
        pack=128,
        long=64,
        prefetch=1,
        min_deferred=100_000,
        max_deferred=4_000_000,
        threaded=100_000,
        threads=cores(),
    )
