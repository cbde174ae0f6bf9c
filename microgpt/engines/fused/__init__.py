"""The manual pass as compiled SIMD loops.

simd/ has vectors, exponentials and products of tiles; passes.py the functions of manual.py in its order, linear.py and
attention.py the larger ones; adam.py the update. entries.py lists the kernels that Python calls, each a whole block of
steps or a whole text per call; jit/ compiles and caches them. layout.py and state.py say where everything lies in
memory. This file is the Engine: it converts tensors to flat vectors, padded to whole registers, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from microgpt import engines
from microgpt.config import Model, Optim
from microgpt.engines.common.arrays import rope_angles
from microgpt.engines.common.int8 import rounded
from microgpt.engines.fused import layout, tuning
from microgpt.engines.fused.jit import cache
from microgpt.engines.fused.jit.code import Kernels
from microgpt.engines.fused.layout import LINE, Shape, batch_workspace_size, stride
from microgpt.engines.fused.plan import PAIR
from microgpt.engines.fused.slots import Cache, Call, Slots
from microgpt.engines.fused.state import PARTS, Place, State, arranged, at, empty
from microgpt.engines.fused.widths import are_narrow
from microgpt.errors import INFERENCE_ONLY, NOT_FINITE, NumericError, UsageError
from microgpt.feed import Feed
from microgpt.model import Tensors, table

Array = np.ndarray
ACTIVATIONS = {"relu": 0, "relu2": 1, "gelu": 2}
QKV = ("attn_wq", "attn_wk", "attn_wv")

TWO_VECTORS = 1 << 22  # numbers of a batch workspace up to which a batch is two vectors wide: it stays in the cache
MAX_BATCH = 1 << 26  # numbers of a batch workspace beyond which sequences are generated one after another
MAX_TABLE = 1 << 20  # numbers of the largest table by token and position
NARROW = 8  # vectors of a width below which a micro-batch has more positions
BF16_MULTIPLE = 32  # n_embd must be a multiple of it for products in bfloat16


def pad(n: int, W: int) -> int:
    """n rounded up to whole vectors of W lanes."""
    return -(-n // W) * W


def rotation(model: Model, width: int, dtype: str) -> tuple[Array, Array]:
    """RoPE's cosines and sines (size / 2, width positions)."""
    angle = np.ascontiguousarray(rope_angles(0, width, model.head_dim, model.rope_base).T)
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def kernels_of(model: Model, dtype: str, plan: Mapping[str, int] | None = None) -> Kernels:
    """The kernels that compute the model by this machine's plan, or a recorded one; raises MachineError."""
    kind = "float32" if dtype == "bfloat16" and model.n_embd % BF16_MULTIPLE else dtype
    return cache.load(kind, dtype != "int8" and are_narrow(plan or tuning.measured(dtype, model)))


class Workspaces:
    """Arrays to work in, by name, kept from call to call."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.kept = dtype, {"": np.zeros(0, dtype)}

    def __call__(self, size: int, name: str = "") -> Array:
        """An array of `size` numbers; its content is arbitrary."""
        if len(self.kept.get(name, ())) < size:
            self.kept[name] = empty(size, self.dtype)
        return self.kept[name][:size]


class Request(NamedTuple):
    """The arguments of `generate`; see microgpt.engines.Engine."""

    prompts: Array
    offsets: Array
    max_length: int
    temperature: float
    uniform: Array
    stop: int


class Engine(engines.Engine):
    """The fused rung: see microgpt.engines.Engine."""

    def __init__(
        self,
        model: Model,
        optim: Optim,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int = 0,
        plan: Mapping[str, int] | None = None,
    ) -> None:
        self.model, self.optim = model, optim
        self.dtype = "float64" if dtype == "float64" else "float32"
        self.kernels = kernels_of(model, dtype, plan)
        self.bf16 = self.kernels.bf16_pairs
        self.stored = "int8" if dtype == "int8" else "bf16_pairs" if self.bf16 else "transposed"
        self.lanes = self.kernels.vector // np.dtype(self.dtype).itemsize
        self.shape, self.where = self._lay_out()
        self.sizes = tuning.kept(dtype, model, self.kernels.vector).with_fields(plan or {})
        self.block = pad(model.block_size, self.lanes)
        self.width = self.block + self.lanes  # columns of the tables and the cache: vectors begin anywhere
        self.cache_size = 2 * model.n_layer * self.shape.Dp * self.width  # numbers in a sequence's keys and values
        positions = self.sizes.positions * max(1, NARROW * self.lanes // self.shape.Dp)
        self.columns = max(self.block, (1 + self.bf16) * positions)  # per micro-batch
        self.tables = rotation(model, self.width, self.dtype)
        self.cos, self.sin = at(self.tables[0]), at(self.tables[1])
        self.workspace, self.operands = Workspaces(self.dtype), Workspaces("uint32" if self.bf16 else self.dtype)
        self.threads = threads or (self.sizes.threads if self.shape.n >= self.sizes.threaded else 1)

    def _lay_out(self) -> tuple[Shape, dict[str, Place]]:
        """The shape, and the place of each matrix in the flat vectors."""
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
        layer = starts["layer0.attn_wq"]
        wo, fc1, fc2 = (starts[f"layer0.{name}"] - layer for name in ("attn_wo", "mlp_fc1", "mlp_fc2"))
        shape = Shape(
            D=model.n_embd,
            V=model.vocab,
            H=model.n_head,
            size=model.head_dim,
            layers=model.n_layer,
            Dp=D,
            Fp=F,
            Vp=V,
            Ds=stride(D, W),
            Qs=stride(3 * D, W),
            Fs=stride(F, W),
            Vs=stride(V, W),
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
            layer=layer,
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
        if model.n_embd % BF16_MULTIPLE:
            return f"its products stay float32: in bfloat16 they take an n_embd that is a multiple of {BF16_MULTIPLE}"
        return None if cpu()["bfloat16"] else "its products stay float32: this CPU has no instructions for bfloat16"

    @staticmethod
    def plan(model: Model, dtype: str) -> dict[str, int]:
        return tuning.kept(dtype, model, kernels_of(model, dtype).vector)._asdict()

    def load(self, tensors: Tensors) -> State:
        state = State(self.shape.n, self.where, self.dtype)
        for part, prefix in PARTS:
            for name in self.where:
                if prefix + name in tensors:
                    for columns, view in state.parts(part, name):
                        view[:] = (rounded if self.stored == "int8" else np.asarray)(tensors[prefix + name])[:, columns]
        return state

    def _arranged(self, state: State, how: str) -> int:
        """The address of the weights as generation reads them; see state.arranged."""
        if how not in state.arranged:
            state.arranged[how] = arranged(self.shape, state.flat["w"], self.lanes, how)
        return at(state.arranged[how])

    def dump(self, state: State) -> Tensors:
        return {
            prefix + name: np.concatenate([view for _, view in state.parts(part, name)], axis=1)
            for part, prefix in PARTS
            for name in self.where
        }

    def train(self, state: State, feed: Feed, lrs: Array, norms: Array | None = None) -> tuple[State, Array]:
        if self.stored == "int8":
            raise UsageError(INFERENCE_ONLY)
        state.arranged.clear()
        losses, found = self._run(state, feed, np.asarray(lrs, np.float64), True)
        if norms is not None:
            norms[: len(losses)] = found
        return state, losses

    def loss(self, state: State, feed: Feed) -> Array:
        return self._run(state, feed, np.zeros(feed.n_steps), False)[0]

    def _run(self, state: State, feed: Feed, lrs: Array, learning: bool) -> tuple[Array, Array]:
        """The losses and, if `learning`, the norms of the gradients of the steps that were computed."""
        tokens, scored = np.ascontiguousarray(feed.tokens, np.int32), np.ascontiguousarray(feed.scored, bool)
        offsets, steps = (np.ascontiguousarray(a, np.int64) for a in (feed.offsets, feed.steps[: len(lrs) + 1]))
        lengths = -(-(np.diff(offsets[: steps[-1] + 1]) - 1) // self.lanes) * self.lanes
        longest = int(np.add.reduceat(lengths, steps[:-1]).max()) if len(lengths) else 0
        columns = max(int(lengths.max(initial=0)), min(longest, self.columns))
        optim, k = self.optim, np.arange(feed.first_step + 1, feed.first_step + len(lrs) + 1)
        rates = np.empty((len(lrs), 3))
        rates.T[:] = lrs * optim.weight_decay, lrs / (1 - optim.beta1**k), 1 / (1 - optim.beta2**k)
        seed = (feed.seed + 2**63) % 2**64 - 2**63  # its low bits, as the masks take them
        losses = np.empty((2, len(lrs)))  # and norms
        n_threads = self.threads
        arrivals, sums = np.zeros(1, np.int64), np.zeros(n_threads * LINE)
        trace, operands = self._trace(columns, columns, self.shape.layers), self._operands(columns)
        dw, workspace = self.workspace(n_threads * self.shape.n, "dw"), self.workspace(n_threads * trace)
        train, places = self.kernels.train, self.operands(n_threads * operands)
        several = longest > columns or feed.micro_batch_size > 0  # micro-batches per step; with one, wt is not used
        wt = self.workspace(n_threads * self.shape.n, "wt") if several else dw

        def work(thread_id: int) -> int:
            return train(
                *self.shape, *self.sizes, at(tokens), at(offsets), at(steps), len(steps) - 1, at(scored),
                feed.first_step, feed.micro_batch_size, columns, seed, state.w, at(wt), at(dw), state.m, state.v,
                at(workspace), trace, at(places), operands, self.block, self.cos, self.sin, self.width, optim.beta1,
                optim.beta2, optim.eps, optim.clip_norm, at(rates), at(losses), learning, thread_id, n_threads,
                at(arrivals), at(sums),
            )  # fmt: skip

        others = [Thread(target=work, args=(thread_id,)) for thread_id in range(1, n_threads)]
        for thread in others:
            thread.start()
        count = work(0)
        for thread in others:
            thread.join()
        return losses[0, :count], losses[1, :count]

    def _trace(self, N: int, columns: int, layers: int) -> int:
        """Numbers in the trace of N positions, in whole cache lines."""
        return pad(layout.workspace_size(self.shape, self.sizes, N, columns, layers, self.block, self.lanes), 16)

    def _operands(self, N: int) -> int:
        """Numbers, or pairs of bfloat16s, of the operands of products of N positions, in whole cache lines."""
        return pad(layout.panels_size(self.shape, self.sizes, N, self.block, self.lanes), 16)

    def _call(self, N: int, n: int) -> Call:
        trace = self._trace(N, pad(N, self.lanes), 1)
        return Call(N, n, self.model.vocab, trace, self._operands(N), self.dtype)

    def _decode(self, state: State, call: Call, rows: int, keys: int, blocked: bool, skip: int) -> None:
        """Logits of the call's tokens from number `skip` on; see decode.py. `keys`: where the first cache begins."""
        values = keys + self.cache_size // 2 * np.dtype(self.dtype).itemsize
        self.kernels.decode(
            *self.shape, *self.sizes, *call.inputs, rows, state.w, self._arranged(state, self.stored), *call.rooms,
            self.block, self.cos, self.sin, self.width, keys, values, self.width, blocked, *call.places, skip,
            call.outputs,
        )  # fmt: skip

    def logits(self, state: State, tokens: Array, cache: Cache | None = None) -> tuple[Array, Cache]:
        cache, T = cache or Cache(self.cache_size, self.dtype), len(tokens)
        if cache.call is None or cache.call.N < T:
            cache.call = self._call(T, 1)
        call = cache.call
        call.tokens[:T], call.offsets[1], call.past[0] = tokens, T + 1, cache.length
        self._decode(state, call, 1, cache.address, False, 0)
        cache.length += T
        return call.logits[:T].copy(), cache

    def slots(self, state: State, n: int, prefix_bytes: int) -> Slots:
        decode = partial(self._decode, state)
        shape, threads = self.shape, self.threads
        return Slots(decode, self._call, shape, self.width, self.lanes, self.dtype, n, prefix_bytes, threads)

    def generate(self, state: State, *asked: Any) -> tuple[Array, Array, int]:
        prompts, offsets, max_length, temperature, uniform, stop = asked
        prompts, offsets = np.ascontiguousarray(prompts, np.int32), np.ascontiguousarray(offsets, np.int64)
        numbers = np.ascontiguousarray(uniform, float)
        request = Request(prompts, offsets, max_length, float(temperature), numbers, stop)
        return (self._generate_batch if uniform.ndim == 2 else self._generate_in_turn)(state, request)

    def _generate_in_turn(self, state: State, request: Request) -> tuple[Array, Array, int]:
        prompts, offsets, max_length, temperature, uniform, stop = request
        c, S, lengths = self.shape, self.block, np.diff(offsets)
        longest = int(lengths.max(initial=1))
        plain = self.stored == "transposed"
        short = c.short and plain and c.Dp % 4 == 0 and temperature > 0 and c.V * S * 4 * c.Dp <= MAX_TABLE
        tolerance = 128 * float(np.finfo(self.dtype).eps) / temperature if short else 0.0
        workspace = self.workspace(layout.decode_workspace_size(c, S, self.lanes) if short else 1, "decode")
        keys, values = (self.workspace(c.layers * c.Dp * self.width, name) for name in ("keys", "values"))
        trace = self.workspace(self._trace(longest, pad(longest, self.lanes), 1), "trace")
        out, ends = np.empty(int((max_length + 1 - lengths).clip(0).sum()), np.int32), np.zeros(len(offsets), np.int64)
        places = self.operands(self._operands(longest))
        known, exponentials = np.zeros(c.V * S if short else 1, np.uint8), np.empty(c.V + 64)
        seen = np.zeros(max(longest, max_length) + 1, np.int32)
        span, used = np.zeros(4, np.int64), np.zeros(1, np.int64)
        done = self.kernels.generate(
            *c, *self.sizes, at(prompts), at(offsets), len(lengths), max_length, temperature, at(uniform), len(uniform),
            stop, state.w, self._arranged(state, self.stored), at(workspace), at(known), tolerance, at(trace),
            at(places), S, self.cos, self.sin, self.width, at(keys), at(values), self.width, at(exponentials), at(seen),
            at(span), at(out), at(ends), at(used),
        )  # fmt: skip
        if done < 0:
            raise NumericError(NOT_FINITE)
        return out[: ends[done]], ends[: done + 1], int(used[0])

    def _generate_batch(self, state: State, request: Request) -> tuple[Array, Array, int]:
        prompts, offsets, max_length, temperature, uniform, stop = request
        c, count, W = self.shape, len(offsets) - 1, self.lanes
        slots = layout.round_up_4(max_length)
        n = 2 * W if count > W and batch_workspace_size(c, 2 * W, slots, W) <= TWO_VECTORS else W
        if batch_workspace_size(c, n, slots, W) > MAX_BATCH:
            alone = [
                request._replace(prompts=prompt, offsets=np.array([0, len(prompt)]), uniform=line)
                for prompt, line in zip(np.split(prompts, offsets[1:-1]), uniform, strict=True)
            ]
            parts = [self._generate_in_turn(state, one)[0] for one in alone]
            ends = np.cumsum([0, *map(len, parts)])
            return np.concatenate(parts), ends, int(ends[-1])
        out, lengths = np.zeros((count, max_length), np.int32), np.zeros(count, np.int64)
        workspace, owner = self.workspace(batch_workspace_size(c, n, slots, W), "batch"), np.zeros(n, np.int64)
        total = self.kernels.generate_batch(
            *c, *self.sizes, at(prompts), at(offsets), count, max_length, temperature, at(uniform), uniform.shape[1],
            stop, state.w, self._arranged(state, "transposed"), at(workspace), n, slots, self.cos, self.sin, self.width,
            at(owner), at(out), at(lengths),
        )  # fmt: skip
        if total < 0:
            raise NumericError(NOT_FINITE)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return out[np.arange(max_length) < lengths[:, None]], ends, int(ends[-1])
