"""A GPT in one file: tokenizer, autograd, model, optimizer, training and sampling, from the standard library.

    python3 gpt.py [FILE]       # one document a line; without FILE, names.txt

In about fifteen seconds a model of 4,192 numbers learns what names look like and makes up 20 new ones.
Nothing is left out but speed. The faster engines of this project are checked against this file, so the order
of the additions and multiplications below is part of what it says.

Read it downwards: text becomes tokens, numbers remember where they came from, such numbers make a model, the
model learns, the model speaks. Shapes: V vocabulary, D = N_EMBD, T positions so far.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

N_LAYER = 1  # how many times attention and MLP follow each other
N_EMBD = 16  # how many numbers describe a token on its way through the model
N_HEAD = 4  # attention heads, each with its own slice of those numbers
HEAD_DIM = N_EMBD // N_HEAD
BLOCK_SIZE = 16  # context length: the most positions a document can have
LEARNING_RATE, BETA1, BETA2, ADAM_EPS = 0.01, 0.85, 0.99, 1e-8
SEED, NUM_STEPS, NUM_SAMPLES, TEMPERATURE = 42, 1000, 20, 0.5

# ---- Text becomes tokens -----------------------------------------------------------------------------------


def read_docs(path: Path) -> list[str]:
    """Every line that is not blank is a document."""
    with path.open(encoding="utf-8") as lines:
        docs = [line.strip() for line in lines if line.strip()]
    if not docs:
        raise ValueError("there is no text in it")
    return docs


class Tokenizer:
    """A token for each character, and one more, BOS, that marks where a document begins and where it ends."""

    def __init__(self, docs: Sequence[str]) -> None:
        self.chars = sorted(set("".join(docs)))
        self.ids = {char: token for token, char in enumerate(self.chars)}
        self.bos = len(self.chars)
        self.vocab_size = len(self.chars) + 1

    def encode(self, doc: str) -> list[int]:
        """A document's tokens, between BOS and BOS."""
        return [self.bos, *(self.ids[char] for char in doc), self.bos]

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters of tokens, which hold no BOS."""
        return "".join(self.chars[token] for token in tokens)


# ---- Numbers remember where they came from -----------------------------------------------------------------


class Value:
    """A number, the numbers it was made from (children), and its derivative by each of them (local_grads).

    After loss.backward(), grad is the derivative of the loss by this number.
    """

    __slots__ = ("children", "data", "grad", "local_grads")

    def __init__(self, data: float, children: tuple[Value, ...] = (), local_grads: tuple[float, ...] = ()) -> None:
        self.data = data
        self.grad = 0.0
        self.children = children
        self.local_grads = local_grads

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, n: float) -> Value:
        return Value(self.data**n, (self,), (n * self.data ** (n - 1),))

    def exp(self) -> Value:
        """e to the power of this number."""
        e = math.exp(self.data)
        return Value(e, (self,), (e,))

    def log(self) -> Value:
        """The natural logarithm."""
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> Value:
        """This number, or zero where it is negative."""
        return Value(max(0.0, self.data), (self,), (float(self.data > 0),))

    def __neg__(self) -> Value:
        return self * -1

    def __sub__(self, other: Value | float) -> Value:
        return self + -other

    def __truediv__(self, other: Value | float) -> Value:
        return self * other**-1

    def backward(self) -> None:
        """The chain rule: from this number down to all it was made from, adding to the grad of each."""
        # A number can pass its grad on once all of it has arrived. So list children before parents, depth
        # first, then walk the list backwards. (A function that calls itself would be shorter, but deep graphs
        # overflow it, and as a closure it is a reference cycle, which keeps used graphs in memory.)
        ordered: list[Value] = []
        seen: set[Value] = {self}
        trail: list[tuple[Value, Iterator[Value]]] = [(self, iter(self.children))]
        while trail:
            value, children = trail[-1]
            for child in children:  # go on where this iterator stopped
                if child not in seen:
                    seen.add(child)
                    trail.append((child, iter(child.children)))
                    break
            else:
                ordered.append(value)
                trail.pop()

        self.grad = 1.0
        for value in reversed(ordered):
            grad = value.grad
            for child, local_grad in zip(value.children, value.local_grads, strict=True):
                child.grad += local_grad * grad


Vector = Sequence[Value]
Matrix = list[list[Value]]


def add(a: Vector, b: Vector) -> list[Value]:
    """Two vectors, number by number."""
    return [x + y for x, y in zip(a, b, strict=True)]


def total(values: Vector) -> Value:
    """The sum, added up from the first to the last."""
    return sum(values, Value(0.0))


def dot(a: Vector, b: Vector) -> Value:
    """total(x * y for each pair), the same numbers, but as one Value: a tenth of the time."""
    data = 0.0  # not with sum(): on floats it rounds in another way since Python 3.12
    children: list[Value] = []  # pair by pair, the order in which backward would meet single products
    local_grads: list[float] = []
    for x, y in zip(a, b, strict=True):
        data += x.data * y.data
        children += (x, y)
        local_grads += (y.data, x.data)
    return Value(data, tuple(children), tuple(local_grads))


# ---- Such numbers make a model -----------------------------------------------------------------------------

Weights = dict[str, Matrix]
Cache = list[list[Vector]]  # for each layer, a vector (D) for each of the T positions so far


def init_weights(vocab_size: int, rng: random.Random) -> Weights:
    """A matrix for each name, filled row by row with small random numbers."""
    shapes = {"wte": (vocab_size, N_EMBD), "wpe": (BLOCK_SIZE, N_EMBD), "lm_head": (vocab_size, N_EMBD)}
    for layer in range(N_LAYER):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            shapes[f"layer{layer}.{name}"] = (N_EMBD, N_EMBD)
        shapes[f"layer{layer}.mlp_fc1"] = (4 * N_EMBD, N_EMBD)
        shapes[f"layer{layer}.mlp_fc2"] = (N_EMBD, 4 * N_EMBD)
    return {
        name: [[Value(rng.gauss(0, 0.08)) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


def parameters(weights: Weights) -> list[Value]:
    """All the numbers that training changes."""
    return [p for matrix in weights.values() for row in matrix for p in row]


def empty_cache() -> Cache:
    """No position seen yet, in any layer."""
    return [[] for _ in range(N_LAYER)]


def linear(x: Vector, w: Matrix) -> list[Value]:
    """A matrix times a vector: one dot product for each row."""
    return [dot(row, x) for row in w]


def softmax(logits: Vector) -> list[Value]:
    """Any numbers into probabilities: positive, and one in sum."""
    largest = max(logit.data for logit in logits)  # makes no difference, but keeps exp from overflowing
    exps = [(logit - largest).exp() for logit in logits]
    norm = total(exps)
    return [e / norm for e in exps]


def rmsnorm(x: Vector) -> list[Value]:
    """x at a scale where its mean square is one."""
    scale = (dot(x, x) / len(x) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(query: Vector, keys: Sequence[Vector], values: Sequence[Vector]) -> list[Value]:
    """Each head mixes the values of the T positions so far: the better a key fits the query, the more."""
    mixed: list[Value] = []
    for start in range(0, N_EMBD, HEAD_DIM):
        head = slice(start, start + HEAD_DIM)
        shares = softmax([dot(query[head], key[head]) / HEAD_DIM**0.5 for key in keys])
        mixed += [dot(shares, column) for column in zip(*(value[head] for value in values), strict=True)]
    return mixed


def gpt(weights: Weights, token: int, position: int, keys: Cache, values: Cache) -> list[Value]:
    """A token in, logits (V) for the next one out; its keys and values join those of earlier positions."""
    x = rmsnorm(add(weights["wte"][token], weights["wpe"][position]))
    for layer in range(N_LAYER):
        # Attention: each position asks all positions so far ...
        h = rmsnorm(x)
        query = linear(h, weights[f"layer{layer}.attn_wq"])
        keys[layer].append(linear(h, weights[f"layer{layer}.attn_wk"]))
        values[layer].append(linear(h, weights[f"layer{layer}.attn_wv"]))
        h = attention(query, keys[layer], values[layer])
        x = add(linear(h, weights[f"layer{layer}.attn_wo"]), x)
        # ... MLP: and makes something of the answers by itself.
        h = linear(rmsnorm(x), weights[f"layer{layer}.mlp_fc1"])
        h = [hi.relu() for hi in h]
        x = add(linear(h, weights[f"layer{layer}.mlp_fc2"]), x)
    return linear(x, weights["lm_head"])


# ---- The model learns --------------------------------------------------------------------------------------


def document_loss(weights: Weights, tokens: Sequence[int]) -> Value:
    """How much each next token surprises the model, on average: -log of the probability it gave to it."""
    n = min(BLOCK_SIZE, len(tokens) - 1)
    keys, values = empty_cache(), empty_cache()
    losses: list[Value] = []
    for position in range(n):
        probs = softmax(gpt(weights, tokens[position], position, keys, values))
        losses.append(-probs[tokens[position + 1]].log())
    return total(losses) * (1 / n)


def adam(params: Sequence[Value], m: list[float], v: list[float], step: int, lr: float) -> None:
    """Move each parameter against its gradient, and begin the next gradient at zero.

    m and v are running means of the gradient and of its square; m_hat and v_hat make up for starting at zero.
    """
    m_weight, v_weight = 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1)
    for i, p in enumerate(params):
        m[i] = BETA1 * m[i] + (1 - BETA1) * p.grad
        v[i] = BETA2 * v[i] + (1 - BETA2) * p.grad**2
        m_hat, v_hat = m[i] / m_weight, v[i] / v_weight
        p.data -= lr * m_hat / (v_hat**0.5 + ADAM_EPS)
        p.grad = 0.0


def train(weights: Weights, tokenizer: Tokenizer, docs: Sequence[str], num_steps: int = NUM_STEPS) -> Iterator[float]:
    """A document and an update each step, while the learning rate falls evenly to zero; yields the losses."""
    params = parameters(weights)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(num_steps):
        loss = document_loss(weights, tokenizer.encode(docs[step % len(docs)]))
        loss.backward()
        adam(params, m, v, step, LEARNING_RATE * (1 - step / num_steps))
        yield loss.data


# ---- The model speaks --------------------------------------------------------------------------------------


def sample(weights: Weights, tokenizer: Tokenizer, rng: random.Random) -> str:
    """Draw a token, feed it back in, and so on until BOS; the lower the temperature, the safer the choice."""
    keys, values = empty_cache(), empty_cache()
    token = tokenizer.bos
    tokens: list[int] = []
    for position in range(BLOCK_SIZE):
        logits = gpt(weights, token, position, keys, values)
        probs = softmax([logit / TEMPERATURE for logit in logits])
        token = rng.choices(range(len(probs)), weights=[p.data for p in probs])[0]
        if token == tokenizer.bos:
            break
        tokens.append(token)
    return tokenizer.decode(tokens)


def main(path: Path) -> None:
    """Train on the documents in a file, then print samples."""
    try:
        docs = read_docs(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        sys.exit(f"gpt.py: cannot learn from {path}: {reason}")
    rng = random.Random(SEED)
    rng.shuffle(docs)
    tokenizer = Tokenizer(docs)
    weights = init_weights(tokenizer.vocab_size, rng)
    print(f"num docs: {len(docs)}")
    print(f"vocab size: {tokenizer.vocab_size}")
    print(f"num params: {len(parameters(weights))}")
    for step, loss in enumerate(train(weights, tokenizer, docs), start=1):
        print(f"step {step:4d} / {NUM_STEPS:4d} | loss {loss:.4f}")
    for i in range(NUM_SAMPLES):
        print(f"sample {i + 1:2d}: {sample(weights, tokenizer, rng)}")


if __name__ == "__main__":
    names = Path("names.txt")
    default = names if names.exists() else Path(__file__).with_name(names.name)
    parser = argparse.ArgumentParser(description="Train a tiny GPT on a text file, and sample from it.")
    parser.add_argument("file", nargs="?", type=Path, default=default, help="a document a line (names.txt)")
    main(parser.parse_args().file)
