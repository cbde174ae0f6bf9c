"""llama.cpp reads our GGUF file: tokens, logits and greedy text against ours.

Not in the test suite, because llama-cpp-python is built from source. In an environment that has it:

    microgpt export RUN --to gguf --out model.gguf
    python benchmarks/llama_cpp_proof.py expect RUN > expected.json         (with microgpt)
    python benchmarks/llama_cpp_proof.py check model.gguf expected.json     (with llama-cpp-python)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import numpy as np

PROMPTS = ("", "m", "jo", "Maria said, ", "née\n", "née — “Zoë” 日本🙂\t\u0085 \n x", "  two  spaces 12345 it's")


def expect(run: str) -> None:
    """Print our tokens, logits and greedy text for each prompt as JSON."""
    from microgpt.errors import DataError
    from microgpt.inference.generate import generate_tokens
    from microgpt.inference.language_model import LanguageModel
    from microgpt.inference.sampling import Sampling

    model = LanguageModel.open(run)
    rows = []
    for prompt in PROMPTS:
        try:
            tokens, dropped = model.encode(prompt)
        except DataError:
            continue  # this model does not know the characters
        if dropped:
            continue
        logits, _ = model.engine.logits(model.state, np.array(tokens, np.int32), None)
        room, bos = model.config.model.block_size, model.tokenizer.bos
        greedy = list(
            generate_tokens(model.engine, model.state, tokens, room - 1, Sampling(temperature=0), Random(0), bos)
        )
        rows.append({"prompt": prompt, "tokens": tokens, "logits": logits.tolist(), "greedy": greedy})
    print(json.dumps({"block_size": model.config.model.block_size, "rows": rows}))


def check(model: str, expected: str) -> None:
    """Compare llama.cpp's tokens, logits and greedy text with ours."""
    from llama_cpp import Llama

    given = json.loads(Path(expected).read_text())
    f32 = 0  # ggml's number for float32, which the KV cache is rounded below by default
    llama = Llama(
        model,
        n_ctx=given["block_size"],
        n_batch=512,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=f32,
        type_v=f32,
    )
    for row in given["rows"]:
        tokens = llama.tokenize(row["prompt"].encode(), add_bos=True, special=False)
        assert tokens == row["tokens"], f"{row['prompt']!r}: tokens {tokens}, ours {row['tokens']}"
        llama.reset()
        llama.eval(tokens)
        logits = np.array(llama.scores[: len(tokens)])
        difference = float(np.abs(logits - np.array(row["logits"])).max())
        greedy = []
        for _ in row["greedy"]:
            greedy.append(int(llama.scores[llama.n_tokens - 1].argmax()))
            llama.eval(greedy[-1:])
        text = llama.detokenize(greedy).decode(errors="replace")
        print(f"{row['prompt']!r:28} logits within {difference:.1e}, {len(greedy)} greedy tokens, text {text[:40]!r}")
        assert greedy == row["greedy"], f"ours: {row['greedy']}"


if __name__ == "__main__":
    {"expect": expect, "check": check}[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
