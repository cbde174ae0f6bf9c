"""microgpt for `transformers`: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).

Every option of the model is read from the section `microgpt` of config.json; the weights have our own names.
There is no KV cache: each new token computes the whole context again, which is fine for models of this size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

EPS = 1e-5


class MicroGPTConfig(PreTrainedConfig):
    """config.json with its section `microgpt`."""

    model_type = "microgpt"

    def __init__(self, microgpt: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.microgpt = microgpt or {"model": {}}


def rmsnorm(x: Tensor) -> Tensor:
    """Over the last axis, without a gain."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def rotate(x: Tensor, base: float, pairs: str) -> Tensor:
    """RoPE on (B, H, T, size), positions 0 .. T - 1."""
    T, size = x.shape[-2:]
    angle = torch.arange(T)[:, None] * base ** (-2 * torch.arange(size // 2).double() / size)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    if pairs == "half":
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def activate(x: Tensor, activation: str) -> Tensor:
    """ReLU, its square, or GELU in its tanh form."""
    if activation == "gelu":
        return F.gelu(x, approximate="tanh")
    return F.relu(x).square() if activation == "relu2" else F.relu(x)


class Layer(nn.Module):
    """Attention and MLP, each after a norm and added to the residual stream."""

    def __init__(self, D: int) -> None:
        super().__init__()
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            setattr(self, name, nn.Parameter(torch.zeros(D, D)))
        self.mlp_fc1 = nn.Parameter(torch.zeros(4 * D, D))
        self.mlp_fc2 = nn.Parameter(torch.zeros(D, 4 * D))

    def forward(self, x: Tensor, model: dict[str, Any]) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        B, T, D = x.shape
        n = rmsnorm(x)
        q, k, v = (
            F.linear(n, w).view(B, T, model["n_head"], -1).transpose(1, 2)
            for w in (self.attn_wq, self.attn_wk, self.attn_wv)
        )
        if model["position"] == "rope":
            q, k = (rotate(head, model["rope_base"], model["rope_pairs"]) for head in (q, k))
        if model["qk_norm"]:
            q, k = rmsnorm(q), rmsnorm(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, T, D), self.attn_wo)
        return x + F.linear(activate(F.linear(rmsnorm(x), self.mlp_fc1), model["activation"]), self.mlp_fc2)


class MicroGPTForCausalLM(PreTrainedModel, GenerationMixin):
    """The whole model."""

    config_class = MicroGPTConfig

    def __init__(self, config: MicroGPTConfig) -> None:
        super().__init__(config)
        self.options = model = config.microgpt["model"]
        V, D = model["vocab_size"], model["n_embd"]
        self.wte = nn.Parameter(torch.zeros(V, D))
        if model["position"] == "learned":
            self.wpe = nn.Parameter(torch.zeros(model["block_size"], D))
        if not model["tie_embeddings"]:
            self.lm_head = nn.Parameter(torch.zeros(V, D))
        for i in range(model["n_layer"]):
            setattr(self, f"layer{i}", Layer(D))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without a cache, all tokens go in each time."""
        return {"input_ids": input_ids}

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> CausalLMOutput:
        """Logits (B, T, V) of tokens (B, T), and the mean loss where there are labels."""
        model = self.options
        x = self.wte[input_ids]
        if model["position"] == "learned":
            x = x + self.wpe[: input_ids.shape[1]]
        if model["norm_embedding"]:
            x = rmsnorm(x)
        for i in range(model["n_layer"]):
            x = getattr(self, f"layer{i}")(x, model)
        if model["final_norm"]:
            x = rmsnorm(x)
        logits = F.linear(x, self.wte if model["tie_embeddings"] else self.lm_head)
        if model["softcap"]:
            logits = model["softcap"] * torch.tanh(logits / model["softcap"])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
