"""One ONNX file: tokens and a KV cache in, logits and the longer cache out.

The graph is written node by node, so no framework has to trace it. Inputs: input_ids int64 (B, T) and, per layer,
past_key_values.i.key and .value float32 (B, H, S, size), S = 0 at first. Outputs: logits (B, T, V) and present.i.key
and .value (B, H, S + T, size). Configuration and tokenizer are in the file's metadata.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import Model
from microgpt.formats import ExportJob
from microgpt.formats.convert import EPS
from microgpt.model import Tensors
from microgpt.runs import tensors

OPSET = 18
IR_VERSION = 9  # ONNX Runtime reads it since 1.17


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the file `out`. Every option of a model has its nodes, so none is refused."""
    saved = job.saved
    proto = Graph(saved.config.model, tensors.rounded(job.weights, "float32")).build()
    for key, value in (
        ("microgpt", files.to_json(saved.config.to_dict(), indent=None).decode()),
        ("tokenizer.json", saved.tokenizer.to_json().decode()),
    ):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    files.write_atomic(out, proto.SerializeToString(), replace=False)
    return []


class Graph:
    """The nodes and constants of one model."""

    def __init__(self, model: Model, weights: Tensors) -> None:
        self.model = model
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Add a node; returns the name of its output, or the names."""
        from onnx import helper

        names = [name] if name else [f"{kind.lower()}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        array = np.asarray(value, dtype)
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def ints(self, *values: int) -> str:
        """A constant list of integers."""
        return self.const(values, np.int64)

    def linear(self, x: str, weight: str) -> str:
        """y = x W^T; the matrix is kept transposed."""
        name = f"{weight}.T"
        self.constants[name] = np.ascontiguousarray(self.weights[weight].T)
        return self.op("MatMul", x, name)

    def rmsnorm(self, x: str) -> str:
        """x / sqrt(mean(x^2) + eps) over the last axis."""
        mean = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1), keepdims=1)
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean, self.const(EPS))))

    def activate(self, x: str) -> str:
        """ReLU, its square, or GELU in its tanh form."""
        if self.model.activation != "gelu":
            relu = self.op("Relu", x)
            return self.op("Mul", relu, relu) if self.model.activation == "relu2" else relu
        cube = self.op("Mul", self.op("Mul", x, x), x)
        inner = self.op("Add", x, self.op("Mul", cube, self.const(0.044715)))
        tanh = self.op("Tanh", self.op("Mul", inner, self.const(math.sqrt(2 / math.pi))))
        return self.op("Mul", self.op("Mul", x, self.const(0.5)), self.op("Add", tanh, self.const(1)))

    def heads(self, x: str) -> str:
        """(B, T, D) -> (B, H, T, size)."""
        split = self.op("Reshape", x, self.ints(0, 0, self.model.n_head, self.model.head_dim))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def rotate(self, x: str, turn: tuple[str, str]) -> str:
        """RoPE on (B, H, T, size)."""
        partner = np.arange(self.model.head_dim)
        half = self.model.rope_pairs == "half"
        order = np.roll(partner, self.model.head_dim // 2) if half else partner ^ 1
        other = self.op("Gather", x, self.const(order, np.int64), axis=3)
        return self.op("Add", self.op("Mul", x, turn[0]), self.op("Mul", other, turn[1]))

    def turns(self, positions: str) -> tuple[str, str]:
        """Cosines and signed sines (T, size) of the positions."""
        model, size = self.model, self.model.head_dim
        angle = np.arange(model.block_size)[:, None] * model.rope_base ** (-2 * np.arange(size // 2) / size)
        cos, sin = np.cos(angle), np.sin(angle)
        if model.rope_pairs == "half":
            tables = np.hstack([cos, cos]), np.hstack([-sin, sin])
        else:
            tables = np.repeat(cos, 2, axis=1), np.stack([-sin, sin], axis=2).reshape(len(sin), size)
        return tuple(self.op("Gather", self.const(table), positions, axis=0) for table in tables)  # type: ignore[return-value]

    def layer(self, i: int, x: str, turn: tuple[str, str] | None, mask: str) -> str:
        """One block; adds to the cache of layer i."""
        model, name = self.model, f"layer{i}."
        n = self.rmsnorm(x)
        q, k, v = (self.heads(self.linear(n, name + part)) for part in ("attn_wq", "attn_wk", "attn_wv"))
        if turn:
            q, k = self.rotate(q, turn), self.rotate(k, turn)
        if model.qk_norm:
            q, k = self.rmsnorm(q), self.rmsnorm(k)
        k = self.op("Concat", f"past_key_values.{i}.key", k, name=f"present.{i}.key", axis=2)
        v = self.op("Concat", f"past_key_values.{i}.value", v, name=f"present.{i}.value", axis=2)
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.const(model.head_dim**-0.5))
        mix = self.op("MatMul", self.op("Softmax", self.op("Add", scores, mask), axis=-1), v)
        mix = self.op("Reshape", self.op("Transpose", mix, perm=[0, 2, 1, 3]), self.ints(0, 0, model.n_embd))
        x = self.op("Add", x, self.linear(mix, name + "attn_wo"))
        h = self.activate(self.linear(self.rmsnorm(x), name + "mlp_fc1"))
        return self.op("Add", x, self.linear(h, name + "mlp_fc2"))

    def build(self) -> Any:
        """The ModelProto, checked by onnx."""
        model = self.model
        one, zero = self.const(1, np.int64), self.const(0, np.int64)
        T = self.op("Gather", self.op("Shape", "input_ids"), one)
        S = self.op("Gather", self.op("Shape", "past_key_values.0.key"), self.const(2, np.int64))
        positions = self.op("Range", S, self.op("Add", S, T), one)
        keys = self.op("Range", zero, self.op("Add", S, T), one)
        later = self.op("Greater", keys, self.op("Unsqueeze", positions, self.ints(1)))
        mask = self.op("Where", later, self.const(-np.inf), self.const(0))

        self.constants["wte"] = self.weights["wte"]
        x = self.op("Gather", "wte", "input_ids")
        if model.position == "learned":
            self.constants["wpe"] = self.weights["wpe"]
            x = self.op("Add", x, self.op("Gather", "wpe", positions))
        if model.norm_embedding:
            x = self.rmsnorm(x)
        turn = self.turns(positions) if model.position == "rope" else None
        for i in range(model.n_layer):
            x = self.layer(i, x, turn, mask)
        if model.final_norm:
            x = self.rmsnorm(x)
        logits = self.linear(x, "wte" if model.tie_embeddings else "lm_head")
        if model.softcap:
            logits = self.op("Tanh", self.op("Div", logits, self.const(model.softcap)))
            logits = self.op("Mul", logits, self.const(model.softcap))
        self.op("Identity", logits, name="logits")
        return self._proto()

    def _proto(self) -> Any:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        model, value = self.model, helper.make_tensor_value_info

        def caches(prefix: str, length: str) -> list[Any]:
            shape = ["batch", model.n_head, length, model.head_dim]
            names = [f"{prefix}.{i}.{part}" for i in range(model.n_layer) for part in ("key", "value")]
            return [value(name, TensorProto.FLOAT, shape) for name in names]

        graph = helper.make_graph(
            self.nodes,
            "microgpt",
            [value("input_ids", TensorProto.INT64, ["batch", "new"]), *caches("past_key_values", "past")],
            [value("logits", TensorProto.FLOAT, ["batch", "new", model.vocab]), *caches("present", "all")],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        proto = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="microgpt")
        onnx.checker.check_model(proto)
        return proto
