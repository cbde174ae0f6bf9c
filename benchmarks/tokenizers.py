"""How fast tokenizers learn and encode, beside the libraries' own figures; and the long round trip.

    python -m benchmarks.tokenizers [FOLDER]           the table; FOLDER or MICROGPT_DATA_DIR has the texts
    python -m benchmarks.tokenizers --round-trip N     N random Unicode texts there and back through bpe

One thread, best of five. MB are 10^6 bytes of UTF-8. A document is a line, as in training.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers

from microgpt.tokenizers import KINDS, train
from microgpt.tokenizers.bpe import Bpe

FILES = ("tinyshakespeare.txt", "chat_oasst1.jsonl", "enneads.txt")
COLUMNS = ("batch", "whole", "decode", "tiktoken", "tokenizers")


def best(action: Callable[[], object]) -> float:
    """Seconds of this process on its core, the least of five: what else the machine does is left out."""
    times = []
    for _ in range(5):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def libraries(tokenizer: Bpe, lines: list[str]) -> dict[str, float]:
    """Seconds of the same encoding by the two libraries alone, into lists of their own; ids compared."""
    encoder = tokenizer._encoder[0]
    opened = tokenizers.Tokenizer.from_str(tokenizer.to_json().decode())
    opened.encode_special_tokens = True
    for line in lines:
        assert opened.encode(line).ids == tokenizer.encode(line).tolist(), line
    return {
        "tiktoken": best(lambda: [encoder.encode_ordinary(line) for line in lines]),
        "tokenizers": best(lambda: [opened.encode(line).ids for line in lines]),
    }


def measure(path: Path) -> None:
    """The table of one file: MB/s to encode line by line and as one text, to decode, and by the libraries alone."""
    lines = [line for line in map(str.strip, path.read_text(encoding="utf-8").split("\n")) if line]
    size = sum(len(line.encode()) for line in lines) / 1e6
    whole = " ".join(lines)
    print(f"\n{path.name}: {size:.2f} MB, {len(lines):,} lines; MB/s\n")
    print(f"{'kind':10} {'tokens':>7} {'learn s':>8}" + "".join(f"{name:>11}" for name in COLUMNS))
    for kind in KINDS:
        began = time.perf_counter()
        tokenizer = train(kind, lines)
        learnt = time.perf_counter() - began
        tokens, _ = tokenizer.encode_batch(lines)
        seconds = {
            "batch": best(lambda: tokenizer.encode_batch(lines)),  # noqa: B023
            "whole": best(lambda: tokenizer.encode(whole, unk=True)),  # noqa: B023
            "decode": best(lambda: tokenizer.decode(tokens)),  # noqa: B023
        }
        if isinstance(tokenizer, Bpe):
            seconds |= libraries(tokenizer, lines)
        rates = "".join(f"{size / seconds[name]:11.1f}" if name in seconds else f"{'-':>11}" for name in COLUMNS)
        print(f"{kind:10} {tokenizer.vocab_size:7,} {learnt:8.2f}{rates}", flush=True)


def one_thing() -> None:
    """Seconds for a megabyte of one letter or space, where a careless encoder is quadratic."""
    print("\nseconds to encode 1 MB of\n")
    print(f"{'':12}" + "".join(f"{kind:>12}" for kind in KINDS))
    for name, text in {"a": "a" * 10**6, "spaces, a": " " * 10**6 + "a", "line ends": "\n" * 10**6}.items():
        row = [best(lambda: train(kind, ["a b\nc the"] * 3, unk=True).encode(text)) for kind in KINDS]  # noqa: B023
        print(f"{name:12}" + "".join(f"{seconds:12.3f}" for seconds in row))


def round_trip(cases: int) -> None:
    """Random texts of all planes, with runs and special tokens' literals; stops at the first that differs."""
    rng = random.Random(1)
    tokenizer = train("bpe", ["the theory of <bos> the thing's", "Ünïcödé 東京 🙂"] * 3, merges=40, roles=True)
    planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    extras = ["<bos>", "<end_turn>", " ", "\n\n", "a" * 50, "'s", "1"]
    began = time.perf_counter()
    for case in range(cases):
        plane = planes[rng.randrange(5)]
        parts = [chr(rng.randint(*plane)) for _ in range(rng.randrange(12))]
        if rng.random() < 0.3:
            parts.insert(rng.randint(0, len(parts)), rng.choice(extras))
        text = "".join(parts)
        ids = tokenizer.encode(text)
        stream = tokenizer.stream()
        assert tokenizer.decode(ids) == text, (case, text)
        assert "".join([stream.feed([token]) for token in ids.tolist()]) + stream.end() == text, (case, text)
        assert not len(ids) or ids.max() < min(tokenizer.special.values()), (case, text)
        if (case + 1) % 100_000 == 0:
            print(f"{case + 1:,} texts, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"{cases:,} texts came back exactly")


def main() -> None:
    if sys.argv[1:2] == ["--round-trip"]:
        round_trip(int(sys.argv[2]))
        return
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MICROGPT_DATA_DIR", "."))
    train("bpe-vidya", ["warm"], merges=1)  # compiles
    for name in FILES:
        if (folder / name).exists():
            measure(folder / name)
        else:
            print(f"{folder / name} is not there", file=sys.stderr)
    one_thing()


if __name__ == "__main__":
    main()
