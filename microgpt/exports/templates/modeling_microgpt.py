"""microgpt for Hugging Face transformers: load with AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).

Every option of the model is read from the section `microgpt` of config.json; the weights have our own names.
Without a KV cache: each token computes the whole context again, which is fine for models of this size.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

ACTIVATIONS = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
}


class MicroGPTConfig(PreTrainedConfig):
    model_type = "microgpt"

    def __init__(self, microgpt=None, **kwargs):
        super().__init__(**kwargs)
        self.microgpt = microgpt or {"model": {}}


def norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def rotate(x, model):
    T, size = x.shape[-2:]
    angle = torch.arange(T)[:, None] * model["rope_base"] ** (-2 * torch.arange(size // 2).double() / size)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    if model["rope_pairs"] == "half":
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


class Layer(nn.Module):
    def __init__(self, D):
        super().__init__()
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            setattr(self, name, nn.Parameter(torch.zeros(D, D)))
        self.mlp_fc1 = nn.Parameter(torch.zeros(4 * D, D))
        self.mlp_fc2 = nn.Parameter(torch.zeros(D, 4 * D))

    def forward(self, x, model):
        B, T, D = x.shape
        n = norm(x)
        q, k, v = (
            F.linear(n, w).view(B, T, model["n_head"], -1).transpose(1, 2)
            for w in (self.attn_wq, self.attn_wk, self.attn_wv)
        )
        if model["position"] == "rope":
            q, k = rotate(q, model), rotate(k, model)
        if model["qk_norm"]:
            q, k = norm(q), norm(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, T, D), self.attn_wo)
        return x + F.linear(ACTIVATIONS[model["activation"]](F.linear(norm(x), self.mlp_fc1)), self.mlp_fc2)


class MicroGPTForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MicroGPTConfig

    def __init__(self, config):
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

    def _init_weights(self, module):
        pass

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids, labels=None, attention_mask=None, return_dict=True, **kwargs):
        model = self.options
        x = self.wte[input_ids]
        if model["position"] == "learned":
            x = x + self.wpe[: input_ids.shape[1]]
        if model["norm_embedding"]:
            x = norm(x)
        for i in range(model["n_layer"]):
            x = getattr(self, f"layer{i}")(x, model)
        if model["final_norm"]:
            x = norm(x)
        logits = F.linear(x, self.wte if model["tie_embeddings"] else self.lm_head)
        if model["softcap"]:
            logits = model["softcap"] * torch.tanh(logits / model["softcap"])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
