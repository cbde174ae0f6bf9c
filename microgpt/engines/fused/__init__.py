"""The manual pass as compiled SIMD loops.

tiles.py is the vocabulary (vectors, tiles of products), passes.py the functions of manual.py in its order,
kernels.py what Python calls: a whole block of steps in one compiled call. Here is the engine line: tensors into flat
vectors, padded to whole registers, and back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from microgpt.config import Model, Optim
from microgpt.engines.feed import Feed
from microgpt.errors import MachineError
from microgpt.model import Tensors, table

Array = np.ndarray
ACTIVATIONS = {"relu": 0, "relu2": 1, "gelu": 2}
PARTS = (("w", ""), ("m", "m."), ("v", "v."))  # of a state, and how their tensors' names begin
QKV = ("attn_wq", "attn_wk", "attn_wv")

MOST = 1 << 26  # numbers that sequences side by side may work in; else they go one after another
TABLE = 1 << 20  # numbers that a table of (token, position) may take
HALVES = 32  # channels of which a model has a multiple whose products can be of bfloat16s
SHARED = 100_000  # weights from which on several threads are worth their meetings


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pad(n: Any, W: int) -> Any:
    """n rounded up to whole vectors of W lanes."""
    return -(-n // W) * W


def rotation(model: Model, width: int, dtype: str) -> tuple[Array, Array]:
    """RoPE's cosines and sines (size / 2, width positions)."""
    size = model.head_dim
    angle = model.rope_base ** (-2 * np.arange(size // 2) / size)[:, None] * np.arange(width)
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


class Place(NamedTuple):
    """Where a tensor lies in a flat vector: rows `first` to first + rows of a matrix (height, width) from `at` on."""

    at: int
    height: int
    first: int
    rows: int
    columns: int
    width: int
    wide: int  # columns of a panel


class State:
    """Weights (out, in) and moments, each one flat vector of padded matrices in panels; see `product`."""

    def __init__(self, n: int, where: dict[str, Place], dtype: str) -> None:
        from microgpt.engines.fused.kernels import empty

        self.where = where
        self.flat = {part: empty(n, dtype) for part, _ in PARTS}
        self.turned: dict[bool, Array] = {}  # the weights (in, out), for generation: as words of bfloat16s or not

    def parts(self, part: str, name: str) -> Iterator[tuple[slice, Array]]:
        """A matrix of a flat vector without its padding: columns, and the view (rows, those columns)."""
        from microgpt.engines.fused.kernels import panels

        at, height, first, rows, columns, width, wide = self.where[name]
        for j, panel in panels(self.flat[part][at:], height, width, wide):
            end = min(columns, j + wide)
            yield slice(j, end), panel[first : first + rows, : end - j]


class Room:
    """Memory to work in, by name, kept from call to call."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.kept = dtype, {"": np.zeros(0, dtype)}

    def __call__(self, size: int, name: str = "") -> Array:
        """At least `size` numbers, whatever they are."""
        if len(self.kept.get(name, ())) < size:
            from microgpt.engines.fused.kernels import empty

            self.kept[name] = empty(size, self.dtype)
        return self.kept[name][:size]


class Cache:
    """Keys and values (layers, D, positions) of one row."""

    def __init__(self, n: int, dtype: str) -> None:
        self.length = 0
        self.keys, self.values = np.zeros(n, dtype), np.zeros(n, dtype)
        self.room = Room(dtype)


class Engine:
    """The fused rung: see microgpt.engines.Engine."""

    def __init__(
        self, model: Model, optim: Optim, *, dtype: str = "float32", device: str = "cpu", threads: int = 0
    ) -> None:
        from numba.core import config

        if config.DISABLE_JIT:
            raise MachineError(
                "--engine fused: Numba's compiler is off; unset NUMBA_DISABLE_JIT or take another engine"
            )
        from microgpt.engines.fused import kernels, tiles, vectors

        self.kernels: Any = kernels
        self.model, self.optim = model, optim
        self.halves = dtype == "bfloat16" and vectors.has_bfloat16() and model.n_embd % HALVES == 0
        self.dtype = dtype = "float64" if dtype == "float64" else "float32"
        self.lanes = vectors.lanes_of(dtype)
        self.panel = tiles.PAIR * self.lanes  # columns of a panel
        self.shape, self.where = self._lay_out()
        self.block = pad(model.block_size, self.lanes)
        self.width = self.block + self.lanes  # columns of the tables and the cache: vectors begin anywhere
        self.columns = max(self.block, 64 * self.lanes * 64 // self.shape.Dp)
        self.cos, self.sin = rotation(model, self.width, dtype)
        self.room, self.panels = Room(dtype), Room("uint32" if self.halves else dtype)
        self.threads = threads or (cores() if self.shape.n >= SHARED else 1)

    def _lay_out(self) -> tuple[Any, dict[str, Place]]:
        """The shape, and for each matrix its place."""
        from microgpt.engines.fused.memory import Shape

        model, W = self.model, self.lanes
        D, F, V = pad(model.n_embd, W), pad(4 * model.n_embd, W), pad(model.vocab, W)
        tall = {"attn_wq": D, "attn_wk": D, "attn_wv": D, "attn_wo": D, "mlp_fc1": F, "mlp_fc2": D}
        where, starts, at = {}, {}, 0
        wide = self.panel
        for name, (rows, columns), _ in table(model):
            starts[name] = at
            kind, width = name.partition(".")[2], pad(columns, W)
            height = tall.get(kind, V if name in ("wte", "lm_head") else rows)
            if kind in QKV:  # one product of three matrices
                begin = at - QKV.index(kind) * D * width
                where[name] = Place(begin, 3 * D, QKV.index(kind) * D, rows, columns, width, wide)
            else:
                where[name] = Place(at, height, 0, rows, columns, width, wide)
            at += height * width
        wo, fc1, fc2 = (
            starts[f"layer0.{name}"] - starts["layer0.attn_wq"] for name in ("attn_wo", "mlp_fc1", "mlp_fc2")
        )
        shape = Shape(
            D=model.n_embd,
            V=model.vocab,
            H=model.n_head,
            size=model.head_dim,
            layers=model.n_layer,
            Dp=D,
            Fp=F,
            Vp=V,
            learned=model.position == "learned",
            rope=model.position == "rope",
            half=model.rope_pairs == "half",
            activation=ACTIVATIONS[model.activation],
            norm_embedding=model.norm_embedding,
            final_norm=model.final_norm,
            qk_norm=model.qk_norm,
            short=W % model.head_dim == 0 and model.position == "learned" and not model.qk_norm,
            softcap=float(model.softcap),
            dropout=float(model.dropout),
            wte=0,
            wpe=starts.get("wpe", 0),
            wpe_size=model.block_size * D if "wpe" in starts else 0,
            block=model.block_size,
            head=starts["wte" if model.tie_embeddings else "lm_head"],
            layer=starts["layer0.attn_wq"],
            wo=wo,
            fc1=fc1,
            fc2=fc2,
            step=fc2 + D * F,
            n=at,
        )
        return shape, where

    @staticmethod
    def refuses(model: Model, optim: Optim) -> str | None:
        return None

    def load(self, tensors: Tensors) -> State:
        state = State(self.shape.n, self.where, self.dtype)
        for part, prefix in PARTS:
            for name in self.where:
                if prefix + name in tensors:
                    for columns, view in state.parts(part, name):
                        view[:] = tensors[prefix + name][:, columns]
        return state

    def _turned(self, state: State, halves: bool) -> Array:
        """The weights (in, out), made once after they were changed."""
        if halves not in state.turned:
            state.turned[halves] = self.kernels.turn(self.shape, state.flat["w"], self.panel, halves)
        return state.turned[halves]

    def dump(self, state: State) -> Tensors:
        return {
            prefix + name: np.concatenate([view for _, view in state.parts(part, name)], axis=1)
            for part, prefix in PARTS
            for name in self.where
        }

    def train(self, state: State, feed: Feed, lrs: Array) -> tuple[State, Array]:
        state.turned.clear()
        return state, self._run(state, feed, np.asarray(lrs, np.float64), True)

    def loss(self, state: State, feed: Feed) -> Array:
        return self._run(state, feed, np.zeros(feed.n_steps), False)

    def _run(self, state: State, feed: Feed, lrs: Array, learning: bool) -> Array:
        steps = feed.steps[: len(lrs) + 1]
        lengths = pad(np.diff(feed.offsets[: steps[-1] + 1]) - 1, self.lanes)
        longest = int(np.add.reduceat(lengths, steps[:-1]).max()) if len(lengths) else 0
        columns = max(int(lengths.max(initial=0)), min(longest, self.columns))
        optim, k = self.optim, np.arange(feed.first_step + 1, feed.first_step + len(lrs) + 1)
        rates = np.stack([lrs * optim.weight_decay, lrs / (1 - optim.beta1**k), 1 / (1 - optim.beta2**k)], axis=1)
        losses = np.empty(len(lrs))
        crew = self.threads
        meeting, sums = np.zeros(1, np.int64), np.zeros(crew * self.kernels.LINE)
        w, m, v = (state.flat[part] for part, _ in PARTS)
        dw, room = self.room(crew * self.shape.n, "dw"), self.room(crew * self._trace(columns, columns))
        panels = self.panels(crew * self._operands(columns))

        def work(me: int) -> int:
            count: int = self.kernels.train(
                self.shape, feed.tokens, feed.offsets, steps, feed.scored.view(np.uint8), feed.first_step,
                feed.rows_a_pass, columns, feed.seed, w, dw, m, v, room, panels, self.block, self.cos, self.sin, self.width,
                optim.beta1, optim.beta2, optim.eps, float(optim.clip_norm), rates, losses, learning, me, crew, meeting,
                sums,
            )  # fmt: skip
            return count

        others = [Thread(target=work, args=(me,)) for me in range(1, crew)]
        for thread in others:
            thread.start()
        count = work(0)
        for thread in others:
            thread.join()
        return losses[:count]

    def _trace(self, N: int, columns: int) -> int:
        """Numbers that the trace of N positions takes, in whole cache lines."""
        return pad(self.kernels.room_size(self.shape, N, columns, self.block, self.lanes), 16)

    def _operands(self, N: int) -> int:
        """Numbers or words that the operands of a linear layer of N positions take, in whole cache lines."""
        return pad(self.kernels.panels_size(self.shape, N, self.lanes, self.halves), 16)

    def logits(self, state: State, tokens: Array, cache: Cache | None = None) -> tuple[Array, Cache]:
        cache = cache or Cache(self.model.n_layer * self.shape.Dp * self.width, self.dtype)
        tokens = np.ascontiguousarray(tokens, np.int32)
        T = len(tokens)
        logits = np.empty((T, self.model.vocab), self.dtype)
        self.kernels.proceed(
            self.shape, tokens, np.array([0, T + 1]), state.flat["w"], self._turned(state, self.halves),
            cache.room(self._trace(T, pad(T, self.lanes))), self.panels(self._operands(T)), self.block, self.cos, self.sin, self.width, cache.keys,
            cache.values, self.width, cache.length, logits,
        )  # fmt: skip
        cache.length += T
        return logits, cache

    def write(
        self, state: State, prompts: Array, offsets: Array, room: int, temperature: float, uniform: Array, stop: int
    ) -> tuple[Array, Array, int]:
        prompts, offsets = np.ascontiguousarray(prompts, np.int32), np.asarray(offsets, np.int64)
        write = self._write_streams if uniform.ndim == 2 else self._write_in_turn
        return write(state, prompts, offsets, room, float(temperature), np.ascontiguousarray(uniform, float), stop)

    def _write_in_turn(
        self, state: State, prompts: Array, offsets: Array, room: int, temperature: float, uniform: Array, stop: int
    ) -> tuple[Array, Array, int]:
        from microgpt.engines.fused.writing import desk_size, write

        c, S, lengths = self.shape, self.block, np.diff(offsets)
        longest = int(lengths.max(initial=1))
        short = c.short and not self.halves and c.Dp % 4 == 0 and temperature > 0 and c.V * S * 4 * c.Dp <= TABLE
        near = 128 * float(np.finfo(self.dtype).eps) / temperature if short else 0.0
        desk = self.room(desk_size(c, S, self.lanes) if short else 1, "desk")
        keys, values = (self.room(c.layers * c.Dp * self.width, name) for name in ("keys", "values"))
        trace = self.room(self._trace(longest, pad(longest, self.lanes)), "trace")
        out, ends = np.empty(int((room + 1 - lengths).clip(0).sum()), np.int32), np.zeros(len(offsets), np.int64)
        done, used = write(
            c, prompts, offsets, room, temperature, uniform, stop, state.flat["w"], self._turned(state, self.halves), desk,
            np.zeros(c.V * S if short else 0, np.uint8), near, trace, self.panels(self._operands(longest)), S, self.cos, self.sin, self.width, keys, values,
            self.width, np.empty(c.V + 64), np.zeros(max(longest, room) + 1, np.int32), np.zeros(2, np.int64), out,
            ends,
        )  # fmt: skip
        return out[: ends[done]], ends[: done + 1], used

    def _write_streams(
        self, state: State, prompts: Array, offsets: Array, room: int, temperature: float, uniform: Array, stop: int
    ) -> tuple[Array, Array, int]:
        from microgpt.engines.fused.streams import room_of, write_all

        c, count, W = self.shape, len(offsets) - 1, self.lanes
        n = pad(max(1, min(count, 2 * W)), W)
        if room_of(c, n, room, W) > MOST:
            pairs = zip(np.split(prompts, offsets[1:-1]), uniform, strict=True)
            parts = [
                self._write_in_turn(state, prompt, np.array([0, len(prompt)]), room, temperature, line, stop)[0]
                for prompt, line in pairs
            ]
            ends = np.cumsum([0, *map(len, parts)])
            return np.concatenate(parts), ends, int(ends[-1])
        out, lengths = np.zeros((count, room), np.int32), np.zeros(count, np.int64)
        write_all(
            c, prompts, offsets, room, temperature, uniform, stop, state.flat["w"], self._turned(state, False),
            self.room(room_of(c, n, room, W), "streams"), n, room, self.cos.ravel(), self.sin.ravel(), self.width,
            np.zeros(n, np.int64), out, lengths,
        )  # fmt: skip
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return out[np.arange(room) < lengths[:, None]], ends, int(ends[-1])
