"""PyTorch: one module, eager or compiled, fused Adam; queries, keys and values are one product."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import say
from benchmarks.work import Work
from microgpt.config import Model
from microgpt.model import Tensors

ACTIVATIONS = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
}


class GPT(nn.Module):
    """The model; weights by our names, but for layerN.qkv (3D, D)."""

    def __init__(self, model: Model, tensors: Tensors, sdpa: bool) -> None:
        super().__init__()
        self.m, self.sdpa = model, sdpa
        self.w = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(value) for name, value in fuse(tensors).items()}
        )
        half = torch.arange(model.head_dim // 2, dtype=torch.float64)
        angle = torch.arange(model.block_size)[:, None] * model.rope_base ** (-2 * half / model.head_dim)
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())
        causal_mask = torch.full((model.block_size, model.block_size), float("-inf")).triu(1)
        self.register_buffer("causal_mask", causal_mask)

    def norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), eps=1e-5)

    def rotate(self, x: Tensor) -> Tensor:
        """Interleaved pairs of (B, H, T, size)."""
        T = x.shape[2]
        cos, sin, a, b = self.cos[:T], self.sin[:T], x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.sdpa:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        T = q.shape[2]
        scores = q @ k.transpose(-1, -2) * self.m.head_dim**-0.5 + self.causal_mask[:T, :T]
        return scores.softmax(-1) @ v

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of (B, T); targets of -100 are not scored."""
        m, w = self.m, self.w
        B, T = tokens.shape
        x = F.embedding(tokens, w["wte"])
        if m.position == "learned":
            x = x + w["wpe"][:T]
        if m.norm_embedding:
            x = self.norm(x)
        for i in range(m.n_layer):
            qkv = F.linear(self.norm(x), w[f"layer{i}_qkv"])
            q, k, v = (a.view(B, T, m.n_head, m.head_dim).transpose(1, 2) for a in qkv.split(m.n_embd, -1))
            if m.position == "rope":
                q, k = self.rotate(q), self.rotate(k)
            mix = self.attend(q, k, v).transpose(1, 2).reshape(B, T, m.n_embd)
            x = x + F.linear(mix, w[f"layer{i}_attn_wo"])
            h = ACTIVATIONS[m.activation](F.linear(self.norm(x), w[f"layer{i}_mlp_fc1"]))
            x = x + F.linear(h, w[f"layer{i}_mlp_fc2"])
        if m.final_norm:
            x = self.norm(x)
        logits = F.linear(x, w["wte" if m.tie_embeddings else "lm_head"])
        return F.cross_entropy(logits.view(B * T, -1), targets.reshape(B * T), ignore_index=-100)


def fuse(tensors: Tensors) -> dict[str, Tensor]:
    """Weights as float32 tensors, with wq, wk and wv of a layer in one."""
    out = {}
    for name, value in tensors.items():
        layer, _, matrix = name.partition(".")
        if matrix == "attn_wq":
            parts = [tensors[f"{layer}.attn_{part}"] for part in ("wq", "wk", "wv")]
            out[f"{layer}.qkv"] = torch.tensor(np.concatenate(parts), dtype=torch.float32)
        elif matrix not in ("attn_wk", "attn_wv"):
            out[name] = torch.tensor(value, dtype=torch.float32)
    return out


class Torch:
    """A side of the race. Eager takes each step at its own length; compiled code wants one length for all."""

    def __init__(self, work: Work, *, sdpa: bool, compiled: bool = False, cpp: bool = False) -> None:
        self.work, self.sdpa, self.compiled, self.cpp = work, sdpa, compiled, cpp
        self.name = f"PyTorch {'compiled' + ' (C++)' * cpp if compiled else 'eager'}, {'SDPA' if sdpa else 'manual'}"
        self.batches = batches(work, trimmed=not compiled)
        self.step: Any = None

    def reset(self) -> None:
        torch.set_num_threads(1)
        if self.step is None:
            self.model = GPT(self.work.model, self.work.tensors, self.sdpa)
            self.step = self.model
            if self.compiled:
                torch._dynamo.config.recompile_limit = 100  # every side compiles the same forward for itself
                options = {"cpp_wrapper": True} if self.cpp else {}
                self.step = torch.compile(self.model, dynamic=False, options=options)
        with torch.no_grad():
            for name, value in fuse(self.work.tensors).items():
                self.model.w[name.replace(".", "_")].copy_(value)
        optim = self.work.optim
        self.adam = torch.optim.Adam(
            self.model.parameters(), betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True
        )

    def train(self) -> np.ndarray:
        losses = []
        for (tokens, targets), lr in zip(self.batches, self.work.lrs.tolist(), strict=True):
            self.adam.param_groups[0]["lr"] = lr
            loss = self.step(tokens, targets)
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()
            losses.append(loss.detach())
        return torch.stack(losses).double().numpy()


def batches(work: Work, trimmed: bool) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets (B, T) of each step; `trimmed` to the step's own longest row."""
    inputs, targets, weights = work.rectangles()
    targets = np.where(weights > 0, targets, -100)
    widths = [int(np.flatnonzero(w.any(0)).max()) + 1 if trimmed else w.shape[1] for w in weights]
    return [
        (torch.tensor(x[:, :n], dtype=torch.long), torch.tensor(y[:, :n], dtype=torch.long))
        for x, y, n in zip(inputs, targets, widths, strict=True)
    ]


def compiles() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs; says so where not."""
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception:
        say("  torch.compile needs a C++ compiler and finds none: only eager PyTorch is measured")
        return False
    return True


def sides(work: Work, compiled: bool = True) -> list[Any]:
    """Eager with the library's attention and with its own; compiled in the two forms that are fastest somewhere."""
    forms = [{"sdpa": True}, {"sdpa": False}]
    if compiled and compiles():
        forms += [{"sdpa": True, "compiled": True}, {"sdpa": False, "compiled": True, "cpp": True}]
    return [Torch(work, **form) for form in forms]


class Decoder:
    """Generation with a cache of keys and values, a batch of B sequences, written without modules."""

    def __init__(self, model: Model, tensors: Tensors, batch: int, dtype: torch.dtype = torch.float32) -> None:
        torch.set_num_threads(1)
        self.m, self.B = model, batch
        self.w = {name: value.to(dtype) for name, value in fuse(tensors).items()}
        shape = (model.n_layer, batch, model.n_head, model.block_size, model.head_dim)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        half = torch.arange(model.head_dim // 2, dtype=torch.float64)
        angle = torch.arange(model.block_size)[:, None] * model.rope_base ** (-2 * half / model.head_dim)
        turn = torch.polar(torch.ones_like(angle), angle)
        self.cos, self.sin = turn.real.to(dtype).contiguous(), turn.imag.to(dtype).contiguous()

    def rotate(self, x: Tensor, t: int) -> Tensor:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * self.cos[t] - b * self.sin[t], b * self.cos[t] + a * self.sin[t]], -1).flatten(-2)

    def logits(self, tokens: Tensor, t: int) -> Tensor:
        """Logits (B, V) after the tokens (B,) at position t."""
        m, w, width = self.m, self.w, (self.m.n_embd,)
        x = w["wte"][tokens]
        if m.position == "learned":
            x = x + w["wpe"][t]
        if m.norm_embedding:
            x = F.rms_norm(x, width, eps=1e-5)
        for i in range(m.n_layer):
            qkv = F.linear(F.rms_norm(x, width, eps=1e-5), w[f"layer{i}.qkv"]).view(self.B, 3, m.n_head, 1, -1)
            q, k, v = qkv.unbind(1)
            if m.position == "rope":
                q, k = self.rotate(q, t), self.rotate(k, t)
            self.keys[i, :, :, t : t + 1], self.values[i, :, :, t : t + 1] = k, v
            y = F.scaled_dot_product_attention(q, self.keys[i, :, :, : t + 1], self.values[i, :, :, : t + 1])
            x = x + F.linear(y.reshape(self.B, -1), w[f"layer{i}.attn_wo"])
            h = ACTIVATIONS[m.activation](F.linear(F.rms_norm(x, width, eps=1e-5), w[f"layer{i}.mlp_fc1"]))
            x = x + F.linear(h, w[f"layer{i}.mlp_fc2"])
        if m.final_norm:
            x = F.rms_norm(x, width, eps=1e-5)
        return F.linear(x, w["wte" if m.tie_embeddings else "lm_head"])

    @torch.inference_mode()
    def follow(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (T, V) of given tokens (T,), the same in every sequence, to be compared."""
        rows = [self.logits(torch.full((self.B,), int(token)), t)[0] for t, token in enumerate(tokens)]
        return torch.stack(rows).double().numpy()

    @torch.inference_mode()
    def generate(self, first: int, count: int, temperature: float) -> np.ndarray:
        """Tokens (B, count) drawn one after another from the token `first` on."""
        tokens, out = torch.full((self.B,), first), []
        for t in range(count):
            p = (self.logits(tokens, t) / temperature).softmax(-1)
            tokens = torch.multinomial(p, 1)[:, 0]
            out.append(tokens)
        return torch.stack(out, 1).numpy()
