"""microgpt tokenizer train | encode | decode | show"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from microgpt import files, tokenizers
from microgpt.commands import Switch
from microgpt.config import Data
from microgpt.data.documents import Documents
from microgpt.data.sources import PARQUET, file_source, read_text
from microgpt.errors import DataError, UsageError
from microgpt.runs import checkpoint
from microgpt.terminal import output, output_coloured, output_exactly, output_json, output_table, say
from microgpt.tokenizers import Tokenizer

app = App(name="tokenizer", help="Train, apply and inspect tokenizers.")


@app.command
def train(
    *texts: Path,
    kind: str = "bpe",
    vocab_size: int | None = None,
    merges: int | None = None,
    roles: Switch = False,
    unk: Switch = False,
    whole: Switch = False,
    out: Path = Path("tokenizer.json"),
) -> None:
    """Learn a tokenizer from text files.

    Parameters
    ----------
    texts
        UTF-8 text, one document per line, or Parquet with a column "text".
    kind
        char, word (lossless; word-lossy drops spaces), bpe (bytes; bpe-vidya: characters of whole lines;
        bpe-words: characters of words).
    vocab_size
        Number of tokens, special ones included (word, bpe).
    merges
        Number of merges (bpe), instead of --vocab-size.
    roles
        Add the special tokens of conversations.
    unk
        Add the token <unk> for characters or words outside of the vocabulary.
    whole
        Take each file as one document, line ends included.
    out
        The tokenizer.json to write.
    """
    if not texts:
        raise UsageError("no text; name at least one file to learn from")
    if out.exists():
        raise UsageError(f"{out}: exists already; name another file with --out", "E_EXISTS")
    trained = tokenizers.train(
        kind, _documents(texts, whole), vocab_size=vocab_size, merges=merges, roles=roles, unk=unk
    )
    with files.disk("be written", out):
        files.write_atomic(out, trained.to_json(), replace=False)
    output(out)
    say(f"wrote   {trained.kind} tokenizer, {trained.vocab_size:,} tokens")


def _documents(texts: tuple[Path, ...], whole: bool) -> Iterator[str]:
    found = False
    for path in texts:
        data = Data(format="auto" if path.suffix == PARQUET else "lines")
        documents = Documents([file_source(path)], data, str(path))
        for text in [read_text(path)] if whole else documents.texts:
            found = found or bool(text.strip())
            yield text
        for note in documents.notes:
            if "empty documents" not in note:  # they teach nothing
                say(f"note: {note}")
    if not found:
        raise DataError(f"{', '.join(map(str, texts))}: no text in it; expected one document per line")


@app.command
def encode(*, tokenizer: Path, unk: Switch = False, json: Switch = False) -> None:
    """Turn the text on standard input into token ids.

    Parameters
    ----------
    tokenizer
        A tokenizer.json, a run, or a folder that has one.
    unk
        Replace unknown characters or words by <unk> if the tokenizer has it, else skip them.
    json
        Print one JSON array.
    """
    ids = open_tokenizer(tokenizer).encode(_stdin(), unk=unk).tolist()
    if json:
        output_json(ids)
    else:
        output(" ".join(map(str, ids)))


@app.command
def decode(*, tokenizer: Path) -> None:
    """Turn token ids on standard input, a JSON array or separated by spaces, into text.

    Parameters
    ----------
    tokenizer
        A tokenizer.json, a run, or a folder that has one.
    """
    given = _stdin().strip()
    if given.startswith("["):
        ids = files.parse_json(given.encode(), "standard input")
    else:
        ids = [int(word) if word.lstrip("-").isdecimal() and len(word) < 20 else word for word in given.split()]
    if bad := next((repr(i) for i in ids if not isinstance(i, int) or isinstance(i, bool)), None):
        raise DataError(f"standard input: {bad[:40]} is no token id; expected a JSON array of ids or ids and spaces")
    output_exactly(open_tokenizer(tokenizer).decode(ids))


@app.command
def show(text: str | None = None, *, tokenizer: Path, unk: Switch = False, merges: Switch = False) -> None:
    """Show the tokens of a text in colours, or the table of merges.

    Parameters
    ----------
    text
        The text; standard input if left out.
    tokenizer
        A tokenizer.json, a run, or a folder that has one.
    unk
        Replace unknown characters or words by <unk> if the tokenizer has it, else skip them.
    merges
        Show the merges in the order of learning instead.
    """
    found = open_tokenizer(tokenizer)
    if merges:
        first = found.vocab_size - len(found.special) - len(found.merge_table())
        tokens = ((*pair, first + i) for i, pair in enumerate(found.merge_table()))
        rows = [
            (i, first + i - 1, *(f"'{escaped(found.token(token))}'" for token in each))
            for i, each in enumerate(tokens, 1)
        ]
        output_table([{"header": name} for name in ("merge", "token", "left", "right", "together")], rows)
        return
    ids = found.encode(_stdin() if text is None else text, unk=unk).tolist()
    output_coloured([visible(found.token(token)) for token in ids])
    say(f"{len(ids):,} tokens")


def escaped(text: str, kept: str = "") -> str:
    """Text with every control character but the `kept` ones escaped, so that it cannot control a terminal."""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


def visible(text: str) -> str:
    """Text with its line ends shown, and other control characters escaped."""
    return escaped(text, "\n").replace("\n", "⏎\n")


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file, of a folder's tokenizer.json or of a run. Raises CheckpointError."""
    if path.is_dir():
        if not (path / "tokenizer.json").exists():
            return checkpoint.read(path).tokenizer
        path = path / "tokenizer.json"
    with files.readable(path, "; expected a tokenizer.json"):
        return tokenizers.read(files.read_bytes(path, tokenizers.MAX_BYTES), str(path))


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input: byte {error.start + 1} is not UTF-8; convert the text to UTF-8") from None
