"""The lines of each rung's source that compute an operation: a table of citations.

A citation is a piece of a line, found where it stands when the page asks, so that no line number is written down. It
occurs in its file once; "text #2" is the second line that has it. A test holds that all are found.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from microgpt import files, optim
from microgpt.engines import manual, scalar, tensor
from microgpt.engines.walkthrough.operations import Operation

Cited = dict[str, tuple[str, ...]]
MOST_BYTES = 1 << 20  # of gpt.py


class Lines(NamedTuple):
    """Line numbers, counted from 1; the first one is where to look."""

    forward: list[int]
    backward: list[int]


@dataclass(frozen=True)
class Source:
    """A file, and where it computes what."""

    name: str
    roles: Cited  # by Operation.role: the line that asks for the operation
    kinds: Cited  # by Operation.kind: the lines of its formula
    derivatives: Cited  # by Operation.kind: those of its derivative
    chain: tuple[str, ...] = ()  # the line of the chain rule, which every derivative goes through
    update: tuple[str, ...] = field(default=())  # Adam

    def lines(self, text: str, operation: Operation) -> Lines:
        """Where an operation is computed, and its derivative; empty where the file does not have it."""
        asked = self.roles.get(operation.role, ())
        if not asked:
            return Lines([], [])
        forward = (*asked, *self.kinds.get(operation.kind, ()))
        backward = (*self.derivatives.get(operation.kind, ()), *self.chain)
        return Lines([find(text, each) for each in forward], [find(text, each) for each in backward])


def find(text: str, cited: str) -> int:
    """The line that a citation names. Raises ValueError where there is none, or more than one."""
    piece, _, place = cited.partition(" #")
    found = [number for number, line in enumerate(text.split("\n"), 1) if piece in line]
    if len(found) != 1 and not (place and int(place) <= len(found)):
        raise ValueError(f"{cited!r} is in {len(found)} lines")
    return found[int(place or 1) - 1]


def texts() -> dict[str, str]:
    """The sources that are here, by name, as they are installed. gpt.py comes with the repository alone."""
    found = {}
    definition = Path(scalar.__file__).parents[2] / "gpt.py"
    if definition.is_file():
        found[GPT.name] = files.read_bytes(definition, MOST_BYTES).decode("utf-8")
    return found | {
        SCALAR.name: inspect.getsource(scalar),
        TENSOR.name: inspect.getsource(tensor),
        MANUAL.name: inspect.getsource(manual),
        OPTIM.name: inspect.getsource(optim),
    }


EMBEDDING = "x: Vector = rmsnorm([a + b"
MLP = "h = [hi.relu() for hi in linear("
ATTENTION = "weights = softmax([dot(query[head]"
DOT, DOT_BACK = "data += x.data * y.data", "return Value(data, (*a, *b)"
ADD, MULTIPLY = "return Value(self.data + other.data", "return Value(self.data * other.data"
POWER, EXP = "return Value(self.data**power", "return Value(e, (self,), (e,))"

GPT = Source(
    "gpt.py",
    roles={
        **dict.fromkeys(("token", "position", "embedding", "embedding_norm"), (EMBEDDING,)),
        "attention_norm": ("h = rmsnorm(x)",),
        "query": ("query = linear(h",),
        "key": ("keys.append(linear(h",),
        "value": ("values.append(linear(h",),
        "scores": (ATTENTION,),
        "attention": (ATTENTION,),
        "mix": ("mixed += [dot(weights, column)",),
        **dict.fromkeys(("projection", "attention_residual"), ('zip(linear(h, weights[f"layer{i}.attn_wo"])',)),
        **dict.fromkeys(("mlp_norm", "fc1", "activation"), (MLP,)),
        **dict.fromkeys(("fc2", "mlp_residual"), ('zip(linear(h, weights[f"layer{i}.mlp_fc2"])',)),
        "logits": ('return linear(x, weights["lm_head"])',),
        "probabilities": ("probs = softmax(gpt(",),
        "losses": ("losses.append(probs[",),
        "loss": ("loss = sum(losses",),
    },
    kinds={
        "add": (ADD,),
        "norm": ("scale = (dot(x, x)", "return [xi * scale for xi in x]"),
        "linear": ("return [dot(row, x) for row in w]", DOT),
        "scores": (DOT,),
        "softmax": ("exps = [(xi + -top).exp()", "total = sum(exps", "return [e / total for e in exps]"),
        "mix": (DOT,),
        "relu": ("return Value(max(0.0, self.data)",),
        "losses": ("return Value(math.log(self.data)",),
    },
    derivatives={
        "add": (ADD,),
        "norm": (DOT_BACK, POWER, MULTIPLY),
        "linear": (DOT_BACK,),
        "scores": (DOT_BACK, MULTIPLY),
        "softmax": (EXP, MULTIPLY, POWER),
        "mix": (DOT_BACK,),
        "relu": ("return Value(max(0.0, self.data)",),
        "losses": ("return Value(math.log(self.data)", MULTIPLY),
        "mean": (MULTIPLY,),
    },
    chain=("child.grad += local_grad * value.grad",),
    update=("m[i] = BETA1 * m[i]", "v[i] = BETA2 * v[i]", "m_hat, v_hat = m[i]", "p.data -= lr * m_hat"),
)

RESIDUAL = "x = [a + b for a, b in zip(x, residual"

SCALAR = Source(
    "scalar.py",
    roles={
        "token": ('x = list(w["wte"][token])',),
        **dict.fromkeys(("position", "embedding"), ('zip(x, w["wpe"][position]',)),
        "embedding_norm": ("x = rmsnorm(x) #1",),
        "dropout": ("return [xi * scale for xi, scale in",),
        "attention_norm": ("residual, x = x, rmsnorm(x) #1",),
        **dict.fromkeys(("query", "key", "value"), ("q, k, v = (linear(x",)),
        "rotation": ("head = rotate(head",),
        "head_norm": ("head = rmsnorm(head)",),
        "scores": ("sum((a * b for a, b in zip(q[head]",),
        "attention": ("weights = softmax(scores)",),
        "mix": ("for w, v in zip(weights, column",),
        "projection": ('x = linear(attention(q, cache.keys[i], cache.values[i], model), w[f"layer{i}.attn_wo"])',),
        "attention_residual": (f"{RESIDUAL} #1",),
        "mlp_norm": ("residual, x = x, rmsnorm(x) #2",),
        **dict.fromkeys(("fc1", "activation"), ('x = activate(linear(x, w[f"layer{i}.mlp_fc1"])',)),
        "fc2": ('x = linear(x, w[f"layer{i}.mlp_fc2"])',),
        "mlp_residual": (f"{RESIDUAL} #2",),
        "final_norm": ("x = rmsnorm(x) #2",),
        "logits": ("logits = linear(x, w[",),
        "softcap": ("(z / model.softcap).tanh()",),
        **dict.fromkeys(("probabilities", "losses"), ("losses.append(-softmax(logits)[target].log())",)),
        "loss": ("return sum(losses, start=Value(0.0)) * (1",),
    },
    kinds={
        "add": (ADD,),
        "norm": ("mean_square = sum(", "scale = (mean_square", "return [xi * scale for xi in x]"),
        "linear": ("return [sum((wi * xi for wi",),
        "rotate": ("angle = position *", "out[a], out[b] = x[a] * cos"),
        "softmax": ("exps = [(xi - top).exp()", "total = sum(exps", "return [e / total for e in exps]"),
        "relu": ("return [xi.relu() for xi in x]",),
        "relu2": ("return [xi.relu() ** 2 for xi in x]",),
        "gelu": ("return [xi * 0.5 * ((xi + xi",),
        "losses": ("return Value(math.log(self.data)",),
    },
    derivatives={
        "add": (ADD,),
        "norm": (MULTIPLY, POWER),
        "linear": (MULTIPLY, ADD),
        "rotate": ("return Value(self.data * other, (self,), (other,))", ADD),
        "scores": (MULTIPLY, ADD),
        "softmax": (EXP, MULTIPLY, POWER),
        "mix": (MULTIPLY, ADD),
        "scale": ("return Value(self.data * other, (self,), (other,))",),
        "relu": ("return Value(max(self.data, 0.0)",),
        "relu2": ("return Value(max(self.data, 0.0)", POWER),
        "gelu": ("return Value(t, (self,), (1 - t * t,))", MULTIPLY),
        "softcap": ("return Value(t, (self,), (1 - t * t,))",),
        "losses": ("return Value(math.log(self.data)",),
        "mean": ("return Value(self.data * other, (self,), (other,))",),
    },
    chain=("child.grad += local * node.grad",),
    update=("x.data, m[i], v[i] = rules.adam(",),
)

PRODUCT = "return Tensor(a @ b, (self, other)"
TIMES, PLUS = "return Tensor(a * b, (self, other)", "return Tensor(self.data + other.data"
TIMES_NUMBER, POWERS = "return Tensor(self.data * other, (self,)", "return Tensor(a**power"

TENSOR = Source(
    "tensor.py",
    roles={
        "token": ('x = w["wte"].take(',),
        **dict.fromkeys(("position", "embedding"), ('x = x + w["wpe"].take(',)),
        "embedding_norm": ("x = rmsnorm(x) #1",),
        "dropout": ("x = x * drops[0]", "x = x * drops[2 * i + 1]", "x = x * drops[2 * i + 2]"),
        "attention_norm": ("residual, x = x, rmsnorm(x) #1",),
        **dict.fromkeys(("query", "key", "value"), ("q, k, v = (split(linear(x",)),
        "rotation": ("x = rotate(x, first, model)",),
        "head_norm": ("return rmsnorm(x) if model.qk_norm",),
        "scores": ("scores = q @ k.swap(-1, -2)",),
        **dict.fromkeys(("attention", "mix"), ("return softmax(scores + causal_mask(",)),
        "projection": ("x = linear(join(attention(q, k, v))",),
        "attention_residual": ("x = x + residual #1",),
        "mlp_norm": ("residual, x = x, rmsnorm(x) #2",),
        **dict.fromkeys(("fc1", "activation"), ('x = activate(linear(x, w[f"layer{i}.mlp_fc1"])',)),
        "fc2": ('x = linear(x, w[f"layer{i}.mlp_fc2"])',),
        "mlp_residual": ("x = x + residual #2",),
        "final_norm": ("x = rmsnorm(x) #2",),
        "logits": ("logits = linear(x, w[",),
        "softcap": ("logits = (logits * (1 / model.softcap)).tanh()",),
        **dict.fromkeys(("probabilities", "losses"), ("losses = x.exp().sum().log()",)),
        "loss": ("return (losses * weights",),
    },
    kinds={
        "take": ("return Tensor(a[index]",),
        "add": (PLUS,),
        "norm": ("mean_square = (x * x).sum()", "return x * (mean_square"),
        "linear": ("return x @ w.swap(0, 1)",),
        "rotate": ("return x * cos + x.exchange(partner) * sin",),
        "softmax": ("e = (x + -x.data.max(", "return e / e.sum()"),
        "relu": ("return Tensor(np.maximum(a, 0)",),
        "relu2": ("return x.relu() ** 2",),
        "gelu": ("return x * 0.5 * ((x + x",),
    },
    derivatives={
        "take": ("np.add.at(da, index, dy)",),
        "add": (PLUS,),
        "norm": (TIMES, POWERS, "return Tensor(self.data.sum("),
        "linear": (PRODUCT,),
        "rotate": (TIMES_NUMBER, "return Tensor(self.data[..., partner]"),
        "scores": (PRODUCT, TIMES_NUMBER),
        "softmax": ("return Tensor(e, (self,)", TIMES, POWERS, "return Tensor(self.data.sum("),
        "mix": (PRODUCT,),
        "scale": (TIMES_NUMBER,),
        "relu": ("return Tensor(np.maximum(a, 0)",),
        "relu2": ("return Tensor(np.maximum(a, 0)", POWERS),
        "gelu": ("return Tensor(t, (self,)", TIMES),
        "softcap": ("return Tensor(t, (self,)",),
        "losses": ("return Tensor(np.log(a)", "np.add.at(da, index, dy)"),
        "mean": (TIMES_NUMBER, "return Tensor(self.data.sum("),
    },
    chain=("child.grad = child.grad + grad",),
    update=("p.data, state.m[name], state.v[name] = rules.adam(",),
)

MANUAL = Source(
    "manual.py",
    roles={
        "token": ('x = w["wte"][tokens.ravel()]',),
        **dict.fromkeys(("position", "embedding"), ('w["wpe"][first : first + T]',)),
        "embedding_norm": ("x, r0 = rmsnorm(x)",),
        "dropout": ("x = x * drops[0]", "x = x + (o * drops[2 * i + 1]", "x = x + (o * drops[2 * i + 2]"),
        "attention_norm": ("n1, r1 = rmsnorm(x)",),
        "query": ("q = head_forward(split(linear(n1",),
        "key": ("k = head_forward(split(linear(n1",),
        "value": ("v = split(linear(n1",),
        "rotation": ("x = rotate(x, rope)",),
        "head_norm": ("return Head(*rmsnorm(x))",),
        "scores": ("scores = q @ k.swapaxes(-1, -2)", "scores *= q.shape[-1] ** -0.5"),
        "attention": ("p = softmax(scores)",),
        "mix": ("return p @ v, p",),
        "projection": ('o = linear(mix, w[f"layer{i}.attn_wo"])',),
        "attention_residual": ("x = x + (o * drops[2 * i + 1]",),
        "mlp_norm": ("n2, r2 = rmsnorm(x)",),
        "fc1": ('h = linear(n2, w[f"layer{i}.mlp_fc1"])',),
        "activation": ("a = activate(h, model.activation)",),
        "fc2": ('o = linear(a, w[f"layer{i}.mlp_fc2"])',),
        "mlp_residual": ("x = x + (o * drops[2 * i + 2]",),
        "final_norm": ("x, r = rmsnorm(x)",),
        "logits": ("logits = linear(x, w[",),
        "softcap": ("logits = model.softcap * np.tanh(",),
        "probabilities": ("return float((losses * weights).sum(dtype=np.float64)), e / total",),
        "losses": ("losses = np.log(total[:, 0])",),
        "loss": ("return float((losses * weights).sum(dtype=np.float64)), e / total",),
    },
    kinds={
        "norm": ("r = 1.0 / np.sqrt(",),
        "linear": ("return x @ w.T",),
        "rotate": ("return x * cos + x[..., partner] * sin",),
        "softmax": ("x -= x.max(", "np.exp(x, out=x)", "x /= x.sum("),
        "relu": ("return np.maximum(x, 0) #1",),
        "relu2": ("return np.maximum(x, 0) ** 2",),
        "gelu": ("return 0.5 * x * (1 + np.tanh(",),
    },
    derivatives={
        "take": ('np.add.at(dw["wte"]', 'dw["wpe"][:T] +='),
        "add": ("dx = dx + rmsnorm_back(dn, s.n2", "dx = dx + rmsnorm_back(dn, s.n1"),
        "norm": ("return (dy - y * (np.einsum(",),
        "linear": ("dw += dy.T @ x", "return dy @ w"),
        "rotate": ("return dy * cos - dy[..., partner] * sin",),
        "scores": ("return ds @ k, ds.swapaxes(-1, -2) @ q", "ds *= q.shape[-1] ** -0.5"),
        "softmax": ("dp -= np.einsum(", "dp *= p"),
        "mix": ("return ds @ k, ds.swapaxes(-1, -2) @ q", "ds = softmax_back(dy @ v"),
        "scale": ("do = dx * drops[2 * i + 2]", "do = dx * drops[2 * i + 1]", "dx = dx * drops[0]"),
        "relu": ("return dy * (x > 0)",),
        "relu2": ("return dy * (2 * np.maximum(x, 0))",),
        "gelu": ("return dy * (0.5 * (1 + t)",),
        "softcap": ("dlogits = dlogits * (1 - (trace.logits",),
        "losses": ("probs[np.arange(len(targets)), targets] -= 1",),
        "mean": ("probs *= weights.astype(",),
    },
    update=('w, m, v = rules.adam(flat["w"]',),
)

OPTIM = Source(
    "optim.py",
    roles={},
    kinds={},
    derivatives={},
    update=("m = optim.beta1 * m", "v = optim.beta2 * v", "m_hat = m /", "v_hat = v /", "return p - lr * m_hat"),
)

SOURCES = (GPT, SCALAR, TENSOR, MANUAL, OPTIM)
