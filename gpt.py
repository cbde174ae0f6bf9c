"""A GPT in one file: tokenizer, autograd, model, optimizer, training and sampling, from the standard library.

    python3 gpt.py [FILE]       # one document per line; without FILE, a list of names

In about fifteen seconds 4,192 parameters learn how names are spelled and make up 20 new ones. Faster engines must give
the numbers of this file, so the order of its operations matters. V vocabulary, D = N_EMBD, T positions so far.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

N_LAYER, N_EMBD, N_HEAD, BLOCK_SIZE = 1, 16, 4, 16  # blocks, width, attention heads, maximum number of positions
HEAD_DIM = N_EMBD // N_HEAD
LEARNING_RATE, BETA1, BETA2, ADAM_EPS = 0.01, 0.85, 0.99, 1e-8
SEED, NUM_STEPS, NUM_SAMPLES, TEMPERATURE = 42, 1000, 20, 0.5
BOS = "<BOS>"  # the token that begins and ends every document; all others are single characters

Vector = Sequence["Value"]
Weights = dict[str, list[Vector]]  # matrices by name, each a list of rows
Cache = list[tuple[list[Vector], list[Vector]]]  # the keys (T, D) and the values (T, D) of each layer


@dataclass(eq=False, repr=False, slots=True)
class Value:
    """A number that remembers how it was computed, so that backward can find its derivatives."""

    data: float
    children: tuple[Value, ...] = ()  # the numbers it was computed from
    local_grads: tuple[float, ...] = ()  # its derivative with respect to each of them
    grad: float = 0.0  # the derivative of the loss with respect to it, after loss.backward()

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, (self,), (power * self.data ** (power - 1),))

    def __truediv__(self, other: Value | float) -> Value:
        return self * other**-1

    def exp(self) -> Value:
        e = math.exp(self.data)
        return Value(e, (self,), (e,))

    def log(self) -> Value:
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> Value:
        return Value(max(0.0, self.data), (self,), (float(self.data > 0),))

    def backward(self) -> None:
        """Add the derivative of this number to the grad of every number that it was computed from (the chain rule)."""
        order: dict[Value, None] = {}  # an ordered set: depth first, children before parents, without leaves
        stack = [self]  # not recursion, which fails on deep graphs
        while stack:
            pending = [child for child in stack[-1].children if child.children and child not in order]
            if pending:
                stack += reversed(pending)
            else:
                order[stack.pop()] = None
        self.grad = 1.0
        for value in reversed(order):  # parents first, so that the grad of a value is complete before it is passed on
            for child, local_grad in zip(value.children, value.local_grads, strict=True):
                child.grad += local_grad * value.grad


def init_weights(vocab_size: int, rng: random.Random) -> Weights:
    """Matrices of small random numbers, drawn row by row."""
    shapes = {"wte": (vocab_size, N_EMBD), "wpe": (BLOCK_SIZE, N_EMBD), "lm_head": (vocab_size, N_EMBD)}
    for i in range(N_LAYER):
        shapes |= {f"layer{i}.attn_{name}": (N_EMBD, N_EMBD) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"layer{i}.mlp_fc1": (4 * N_EMBD, N_EMBD), f"layer{i}.mlp_fc2": (N_EMBD, 4 * N_EMBD)}
    return {name: [[Value(rng.gauss(0, 0.08)) for _ in range(n)] for _ in range(m)] for name, (m, n) in shapes.items()}


def dot(a: Vector, b: Vector) -> Value:
    """The sum of all x * y as one Value: ten times faster than one Value per operation, with the same bits."""
    data = 0.0  # not sum(), which rounds floats differently since Python 3.12
    for x, y in zip(a, b, strict=True):
        data += x.data * y.data
    return Value(data, (*a, *b), (*[y.data for y in b], *[x.data for x in a]))


def linear(x: Vector, w: Sequence[Vector]) -> Vector:
    """W x: one dot product per row of W."""
    return [dot(row, x) for row in w]


def rmsnorm(x: Vector) -> Vector:
    """x / sqrt(mean(x^2) + 1e-5)."""
    scale = (dot(x, x) / len(x) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def softmax(x: Vector) -> Vector:
    """exp(x) / sum(exp(x)): any numbers become probabilities."""
    top = max(xi.data for xi in x)  # subtracting it changes no probability and keeps exp from overflowing
    exps = [(xi + -top).exp() for xi in x]
    total = sum(exps, Value(0.0))
    return [e / total for e in exps]


def attention(query: Vector, keys: Sequence[Vector], values: Sequence[Vector]) -> Vector:
    """Each head's average of the values of all T positions, weighted by how well their keys match its query."""
    mixed: list[Value] = []
    for start in range(0, N_EMBD, HEAD_DIM):
        head = slice(start, start + HEAD_DIM)
        weights = softmax([dot(query[head], key[head]) / HEAD_DIM**0.5 for key in keys])
        mixed += [dot(weights, column) for column in zip(*(value[head] for value in values), strict=True)]
    return mixed


def gpt(weights: Weights, token: int, position: int, cache: Cache) -> Vector:
    """The logits (V) for the token after this one. The keys and values of its position are added to the cache."""
    x: Vector = rmsnorm([a + b for a, b in zip(weights["wte"][token], weights["wpe"][position], strict=True)])
    for i, (keys, values) in enumerate(cache):
        h = rmsnorm(x)  # attention: gathers from all positions so far
        query = linear(h, weights[f"layer{i}.attn_wq"])
        keys.append(linear(h, weights[f"layer{i}.attn_wk"]))
        values.append(linear(h, weights[f"layer{i}.attn_wv"]))
        h = attention(query, keys, values)
        x = [a + b for a, b in zip(linear(h, weights[f"layer{i}.attn_wo"]), x, strict=True)]
        h = [hi.relu() for hi in linear(rmsnorm(x), weights[f"layer{i}.mlp_fc1"])]  # MLP: each position alone
        x = [a + b for a, b in zip(linear(h, weights[f"layer{i}.mlp_fc2"]), x, strict=True)]
    return linear(x, weights["lm_head"])


def train(weights: Weights, vocab: Sequence[str], docs: Sequence[str], num_steps: int = NUM_STEPS) -> Iterator[float]:
    """One document and one update per step, at a learning rate that falls linearly to zero. Yields the losses."""
    params = [p for matrix in weights.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)  # Adam's running means of the gradient and of its square
    for step in range(num_steps):
        tokens = [vocab.index(token) for token in (BOS, *docs[step % len(docs)], BOS)]
        cache: Cache = [([], []) for _ in range(N_LAYER)]
        losses: list[Value] = []
        for position in range(min(BLOCK_SIZE, len(tokens) - 1)):
            probs = softmax(gpt(weights, tokens[position], position, cache))
            losses.append(probs[tokens[position + 1]].log() * -1)
        loss = sum(losses, Value(0.0)) * (1 / len(losses))
        loss.backward()
        lr = LEARNING_RATE * (1 - step / num_steps)
        m_weight, v_weight = 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1)  # less than 1, since m and v begin at 0
        for i, p in enumerate(params):
            m[i] = BETA1 * m[i] + (1 - BETA1) * p.grad
            v[i] = BETA2 * v[i] + (1 - BETA2) * p.grad**2
            m_hat, v_hat = m[i] / m_weight, v[i] / v_weight
            p.data -= lr * m_hat / (v_hat**0.5 + ADAM_EPS)
            p.grad = 0.0
        yield loss.data


def sample(weights: Weights, vocab: Sequence[str], rng: random.Random) -> str:
    """Draw a token, feed it back in, and so on until BOS. A lower temperature favors likelier tokens."""
    cache: Cache = [([], []) for _ in range(N_LAYER)]
    drawn = [BOS]
    for position in range(BLOCK_SIZE):
        logits = gpt(weights, vocab.index(drawn[-1]), position, cache)
        probs = softmax([logit / TEMPERATURE for logit in logits])
        drawn += rng.choices(vocab, [p.data for p in probs])
        if drawn[-1] == BOS:
            break
    return "".join(token for token in drawn if token != BOS)


if __name__ == "__main__":
    if sys.argv[2:] or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    here = Path(__file__).parent
    names = [Path("names.txt"), here / "names.txt", here / "microgpt/data/given_names.txt"]
    path = Path(sys.argv[1]) if sys.argv[1:] else next(filter(Path.exists, names), names[0])
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # -sig: without a byte order mark
    except (OSError, ValueError) as error:
        sys.exit(f"gpt.py: cannot read {str(path)!r}: {getattr(error, 'strerror', error)}")
    docs = [line.strip() for line in lines if line.strip()] or sys.exit(f"gpt.py: no text in {str(path)!r}")
    rng = random.Random(SEED)
    rng.shuffle(docs)
    vocab = [*sorted(set("".join(docs))), BOS]  # the tokenizer: a token is the place of a character in this list
    weights = init_weights(len(vocab), rng)
    print(f"num docs: {len(docs)}")
    print(f"vocab size: {len(vocab)}")
    print(f"num params: {sum(len(row) for matrix in weights.values() for row in matrix)}")
    print(f"loss of guessing: ln {len(vocab)} = {math.log(len(vocab)):.4f}")
    recent: list[float] = []
    for step, loss in enumerate(train(weights, vocab, docs), start=1):
        recent = [*recent[-49:], loss]
        print(f"step {step:4d} / {NUM_STEPS:4d} | loss {loss:.4f} | mean of last 50 {sum(recent) / len(recent):.4f}")
    for i in range(NUM_SAMPLES):
        print(f"sample {i + 1:2d}: {sample(weights, vocab, rng)}")
