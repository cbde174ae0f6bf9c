"""The manual pass as compiled SIMD loops.

vectors.py and tiles.py are the vocabulary (vectors, tiles of products), passes.py the functions of manual.py in its
order, linear.py and attention.py what they are mostly made of, update.py Adam, kernels.py what Python calls: a whole
block of steps in one compiled call; library.py keeps the compiled code, state.py weights and moments. Here is the
engine line: tensors into flat vectors, padded to whole registers, and back.
"""

from __future__ import annotations

import os
from threading import Thread

import numpy as np

from microgpt.config import Model, Optim
from microgpt.engines.fused.jit import cache
from microgpt.engines.fused.layout import LINE, PAIR, Shape, apart, desk_size, fours, panels_size, room_size, side_size
from microgpt.engines.fused.state import PARTS, Place, State, at, empty, turned
from microgpt.feed import Feed
from microgpt.model import Tensors, table

Array = np.ndarray
ACTIVATIONS = {"relu": 0, "relu2": 1, "gelu": 2}
QKV = ("attn_wq", "attn_wk", "attn_wv")

FEWER = 1 << 22  # numbers from which on no two vectors of sequences go side by side, as one stays near
MOST = 1 << 26  # numbers that sequences side by side may work in; else they go one after another
TABLE = 1 << 20  # numbers that a table of (token, position) may take
HALVES = 32  # channels of which a model has a multiple whose products can be of bfloat16s
SHARED = 100_000  # weights from which on several threads are worth their meetings


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pad(n: int, W: int) -> int:
    """n rounded up to whole vectors of W lanes."""
    return -(-n // W) * W


def rotation(model: Model, width: int, dtype: str) -> tuple[Array, Array]:
    """RoPE's cosines and sines (size / 2, width positions)."""
    size = model.head_dim
    angle = model.rope_base ** (-2 * np.arange(size // 2) / size)[:, None] * np.arange(width)
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


class Room:
    """Memory to work in, by name, kept from call to call."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.kept = dtype, {"": np.zeros(0, dtype)}

    def __call__(self, size: int, name: str = "") -> Array:
        """At least `size` numbers, whatever they are."""
        if len(self.kept.get(name, ())) < size:
            self.kept[name] = empty(size, self.dtype)
        return self.kept[name][:size]


class Cache:
    """Keys and values (layers, D, positions) of one row, and what a call that continues it works on."""

    def __init__(self, n: int, dtype: str) -> None:
        self.length, self.most = 0, -1  # positions; tokens at once that there is room for
        self.flat = np.zeros((2, n), dtype)
        self.keys, self.values = at(self.flat[0]), at(self.flat[1])

    def make_room(self, T: int, vocab: int, trace: int, operands: int) -> None:
        """For T tokens at once; addresses are kept, since asking for one takes a microsecond."""
        dtype, self.most = self.flat.dtype, T
        self.tokens, self.span = np.zeros(T, np.int32), np.zeros(2, np.int64)
        self.room, self.logits = empty(trace, dtype), np.empty((T, vocab), dtype)
        self.at_tokens, self.at_span = at(self.tokens), at(self.span)
        self.operands = empty(operands, dtype)
        self.at_room, self.at_operands, self.at_logits = at(self.room), at(self.operands), at(self.logits)


class Engine:
    """The fused rung: see microgpt.engines.Engine."""

    def __init__(
        self, model: Model, optim: Optim, *, dtype: str = "float32", device: str = "cpu", threads: int = 0
    ) -> None:
        self.model, self.optim = model, optim
        self.dtype = "float64" if dtype == "float64" else "float32"
        self.kernels = cache.load(dtype if model.n_embd % HALVES == 0 else self.dtype)
        self.halves = self.kernels.bf16_pairs
        self.turned = "words" if self.halves else "turned"
        self.lanes = self.kernels.vector // np.dtype(self.dtype).itemsize
        self.shape, self.where = self._lay_out()
        self.block = pad(model.block_size, self.lanes)
        self.width = self.block + self.lanes  # columns of the tables and the cache: vectors begin anywhere
        self.columns = max(self.block, (1 + self.halves) * max(512, 4096 * self.lanes // self.shape.Dp))  # of a pass
        self.tables = rotation(model, self.width, self.dtype)
        self.cos, self.sin = at(self.tables[0]), at(self.tables[1])
        self.room, self.operands = Room(self.dtype), Room("uint32" if self.halves else self.dtype)
        self.threads = threads or (cores() if self.shape.n >= SHARED else 1)

    def _lay_out(self) -> tuple[Shape, dict[str, Place]]:
        """The shape, and for each matrix its place."""
        model, W = self.model, self.lanes
        D, F, V = pad(model.n_embd, W), pad(4 * model.n_embd, W), pad(model.vocab, W)
        tall = {"attn_wq": D, "attn_wk": D, "attn_wv": D, "attn_wo": D, "mlp_fc1": F, "mlp_fc2": D}
        where, starts, at = {}, {}, 0
        wide = PAIR * W
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
            Ds=apart(D, W),
            Qs=apart(3 * D, W),
            Fs=apart(F, W),
            Vs=apart(V, W),
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
    def remark(model: Model, dtype: str) -> str | None:
        """Where products stay float32 although bfloat16 was asked for."""
        from microgpt.engines.common.hardware import cpu

        if dtype != "bfloat16":
            return None
        if model.n_embd % HALVES:
            return f"its products stay float32: in bfloat16 they take an n_embd that is a multiple of {HALVES}"
        return None if cpu()["bfloat16"] else "its products stay float32: this CPU has no instructions for bfloat16"

    def load(self, tensors: Tensors) -> State:
        state = State(self.shape.n, self.where, self.dtype)
        for part, prefix in PARTS:
            for name in self.where:
                if prefix + name in tensors:
                    for columns, view in state.parts(part, name):
                        view[:] = tensors[prefix + name][:, columns]
        return state

    def _arranged(self, state: State, how: str) -> int:
        """The address of the weights as generation takes them: turned, or turned and in words of bfloat16s."""
        if how not in state.arranged:
            given = self.shape, state.flat["w"], self.lanes
            state.arranged[how] = turned(*given, how == "words")
        return at(state.arranged[how])

    def dump(self, state: State) -> Tensors:
        return {
            prefix + name: np.concatenate([view for _, view in state.parts(part, name)], axis=1)
            for part, prefix in PARTS
            for name in self.where
        }

    def train(self, state: State, feed: Feed, lrs: Array) -> tuple[State, Array]:
        state.arranged.clear()
        return state, self._run(state, feed, np.asarray(lrs, np.float64), True)

    def loss(self, state: State, feed: Feed) -> Array:
        return self._run(state, feed, np.zeros(feed.n_steps), False)

    def _run(self, state: State, feed: Feed, lrs: Array, learning: bool) -> Array:
        tokens, scored = np.ascontiguousarray(feed.tokens, np.int32), np.ascontiguousarray(feed.scored, bool)
        offsets, steps = (np.ascontiguousarray(a, np.int64) for a in (feed.offsets, feed.steps[: len(lrs) + 1]))
        lengths = -(-(np.diff(offsets[: steps[-1] + 1]) - 1) // self.lanes) * self.lanes
        longest = int(np.add.reduceat(lengths, steps[:-1]).max()) if len(lengths) else 0
        columns = max(int(lengths.max(initial=0)), min(longest, self.columns))
        optim, k = self.optim, np.arange(feed.first_step + 1, feed.first_step + len(lrs) + 1)
        rates = np.empty((len(lrs), 3))
        rates.T[:] = lrs * optim.weight_decay, lrs / (1 - optim.beta1**k), 1 / (1 - optim.beta2**k)
        losses, seed = np.empty(len(lrs)), (feed.seed + 2**63) % 2**64 - 2**63  # its low bits, as the masks take them
        crew = self.threads
        meeting, sums = np.zeros(1, np.int64), np.zeros(crew * LINE)
        trace, operands = self._trace(columns, columns), self._operands(columns)
        dw, room, train = self.room(crew * self.shape.n, "dw"), self.room(crew * trace), self.kernels.train
        places = self.operands(crew * operands)
        several = longest > columns or feed.micro_batch_size > 0  # passes a step; else wt is not touched
        wt = self.room(crew * self.shape.n, "wt") if several else dw

        def work(me: int) -> int:
            return train(
                *self.shape, at(tokens), at(offsets), at(steps), len(steps) - 1, at(scored), feed.first_step,
                feed.micro_batch_size, columns, seed, state.w, at(wt), at(dw), state.m, state.v, at(room), trace,
                at(places), operands, self.block, self.cos, self.sin, self.width, optim.beta1, optim.beta2, optim.eps,
                optim.clip_norm, at(rates), at(losses), learning, me, crew, at(meeting), at(sums),
            )  # fmt: skip

        others = [Thread(target=work, args=(me,)) for me in range(1, crew)]
        for thread in others:
            thread.start()
        count = work(0)
        for thread in others:
            thread.join()
        return losses[:count]

    def _trace(self, N: int, columns: int) -> int:
        """Numbers that the trace of N positions takes, in whole cache lines."""
        return pad(room_size(self.shape, N, columns, self.block, self.lanes), 16)

    def _operands(self, N: int) -> int:
        """Numbers or words that the operands of products of N positions take, in whole cache lines."""
        return pad(panels_size(self.shape, N, self.block, self.lanes), 16)

    def logits(self, state: State, tokens: Array, cache: Cache | None = None) -> tuple[Array, Cache]:
        cache = cache or Cache(self.model.n_layer * self.shape.Dp * self.width, self.dtype)
        T = len(tokens)
        if cache.most < T:
            cache.make_room(T, self.model.vocab, self._trace(T, pad(T, self.lanes)), self._operands(T))
        cache.tokens[:T], cache.span[1] = tokens, T + 1
        self.kernels.decode(
            *self.shape, cache.at_tokens, T, state.w, self._arranged(state, self.turned), cache.at_room,
            cache.at_operands, self.block, self.cos, self.sin, self.width, cache.keys, cache.values, self.width,
            cache.length, cache.at_span, cache.at_logits,
        )  # fmt: skip
        cache.length += T
        return cache.logits[:T].copy(), cache

    def generate(
        self, state: State, prompts: Array, offsets: Array, room: int, temperature: float, uniform: Array, stop: int
    ) -> tuple[Array, Array, int]:
        prompts, offsets = np.ascontiguousarray(prompts, np.int32), np.ascontiguousarray(offsets, np.int64)
        generate = self._generate_batch if uniform.ndim == 2 else self._generate_in_turn
        return generate(state, prompts, offsets, room, float(temperature), np.ascontiguousarray(uniform, float), stop)

    def _generate_in_turn(
        self, state: State, prompts: Array, offsets: Array, room: int, temperature: float, uniform: Array, stop: int
    ) -> tuple[Array, Array, int]:
        c, S, lengths = self.shape, self.block, np.diff(offsets)
        longest = int(lengths.max(initial=1))
        short = c.short and not self.halves and c.Dp % 4 == 0 and temperature > 0 and c.V * S * 4 * c.Dp <= TABLE
        near = 128 * float(np.finfo(self.dtype).eps) / temperature if short else 0.0
        desk = self.room(desk_size(c, S, self.lanes) if short else 1, "desk")
        keys, values = (self.room(c.layers * c.Dp * self.width, name) for name in ("keys", "values"))
        trace = self.room(self._trace(longest, pad(longest, self.lanes)), "trace")
        out, ends = np.empty(int((room + 1 - lengths).clip(0).sum()), np.int32), np.zeros(len(offsets), np.int64)
        places = self.operands(self._operands(longest))
        known, odds = np.zeros(c.V * S if short else 1, np.uint8), np.empty(c.V + 64)
        seen, span, used = np.zeros(max(longest, room) + 1, np.int32), np.zeros(2, np.int64), np.zeros(1, np.int64)
        done = self.kernels.generate(
            *c, at(prompts), at(offsets), len(lengths), room, temperature, at(uniform), len(uniform), stop, state.w,
            self._arranged(state, self.turned), at(desk), at(known), near, at(trace), at(places), S, self.cos,
            self.sin, self.width, at(keys), at(values), self.width, at(odds), at(seen), at(span), at(out), at(ends),
            at(used),
        )  # fmt: skip
        return out[: ends[done]], ends[: done + 1], int(used[0])

    def _generate_batch(
        self, state: State, prompts: Array, offsets: Array, room: int, temperature: float, uniform: Array, stop: int
    ) -> tuple[Array, Array, int]:
        c, count, W = self.shape, len(offsets) - 1, self.lanes
        slots = fours(room)
        n = 2 * W if count > W and side_size(c, 2 * W, slots, W) <= FEWER else W
        if side_size(c, n, slots, W) > MOST:
            pairs = zip(np.split(prompts, offsets[1:-1]), uniform, strict=True)
            parts = [
                self._generate_in_turn(state, prompt, np.array([0, len(prompt)]), room, temperature, line, stop)[0]
                for prompt, line in pairs
            ]
            ends = np.cumsum([0, *map(len, parts)])
            return np.concatenate(parts), ends, int(ends[-1])
        out, lengths = np.zeros((count, room), np.int32), np.zeros(count, np.int64)
        place, owner = self.room(side_size(c, n, slots, W), "streams"), np.zeros(n, np.int64)
        self.kernels.generate_batch(
            *c, at(prompts), at(offsets), count, room, temperature, at(uniform), uniform.shape[1], stop, state.w,
            self._arranged(state, "turned"), at(place), n, slots, self.cos, self.sin, self.width, at(owner), at(out),
            at(lengths),
        )  # fmt: skip
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return out[np.arange(room) < lengths[:, None]], ends, int(ends[-1])
