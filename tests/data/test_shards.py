"""Shards: the tokens of the text, whatever the parts; rows that come once, in an order of the seed; foreign files."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Data
from microgpt.data import shards as shards_module
from microgpt.data.documents import Documents, read_documents
from microgpt.data.encode import encode
from microgpt.data.load import load
from microgpt.data.sharded_corpus import ShardedCorpus
from microgpt.data.shards import write_part
from microgpt.data.sources import find_sources
from microgpt.data.text_ranges import part_of
from microgpt.errors import DataError, UsageError
from microgpt.feed import Feed
from microgpt.tokenizers import Tokenizer

TEXTS = [f"{i} {'größer' * (i % 5)}" for i in range(90)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(TEXTS[:40]) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in TEXTS[40:60]))
    (folder / "c.txt.gz").write_bytes(gzip.compress("\n".join(TEXTS[60:70]).encode()))
    (folder / "d.txt").write_text("\n\n" + "\r\n".join(TEXTS[70:]), encoding="utf-8")
    return folder


def rows(feed: Feed) -> list[tuple[int, ...]]:
    return [tuple(feed.tokens[a:b].tolist()) for a, b in itertools.pairwise(feed.offsets.tolist())]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 400])
def test_parts_hold_each_document_once_in_order(text: Path, parts: int) -> None:
    found = []
    for part in range(1, parts + 1):
        mine = part_of(find_sources(str(text)), part, parts, by_lines=True)
        found += list(Documents(mine, Data(), "text").texts)
    assert found == [each.strip() for each in TEXTS]


def sharded(text: Path, out: Path, parts: int, **options: object) -> tuple[Tokenizer, np.ndarray]:
    data = Data.model_validate({"path": str(text), **options})
    tokenizer, encoded = encode(read_documents(data))
    for part in range(1, parts + 1):
        write_part(read_documents(data, hold=False), tokenizer, out, part, parts, shard_tokens=200)
    return tokenizer, encoded.tokens


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("packing", ["rows", "joined"])
def test_shards_hold_the_tokens_of_the_text_and_each_row_comes_once(
    text: Path, tmp_path: Path, packing: str, parts: int
) -> None:
    _, tokens = sharded(text, tmp_path / "out", parts, packing=packing)
    found = load(Data(path=str(tmp_path / "out")), 8)
    assert found.data.packing == packing
    corpus = found.split(Random(1), 0.2)
    assert isinstance(corpus, ShardedCorpus)
    shards = corpus.source.shards
    assert len(shards) > 2
    assert np.array_equal(np.concatenate([shard.encoded().tokens for shard in shards]), tokens)
    n = corpus.n_rows(8)
    whole = rows(corpus.feed(0, n, 1, 8))
    assert rows(corpus.feed(n, n, 1, 8)) == whole
    assert [row for step in range(n // 7) for row in rows(corpus.feed(step, 1, 7, 8))] == whole[: n // 7 * 7]
    assert whole != rows(found.split(Random(2), 0.2).feed(0, n, 1, 8))
    held = [row for feed in corpus.held_out(1000) for row in rows(feed)]
    assert held == [row for feed in found.split(Random(2), 0.2).held_out(1000) for row in rows(feed)]
    if packing == "rows":
        documents = [row for feed in found.held_out().held_out(1000) for row in rows(feed)]
        assert sorted([*rows(corpus.feed(0, n, 1, 1000)), *held]) == sorted(documents)
        assert len(held) == corpus.n_held_out == len(documents) - n
        assert [corpus.place(row, 8) for row in range(n)] != list(range(n))
        assert documents[corpus.place(3, 8)][:9] == whole[3]
        text_of = [found.tokenizer.decode(row) for row in held[:1]]
        assert corpus.contains([*text_of, found.tokenizer.decode(documents[corpus.place(0, 8)])]) == [False, True]
    assert corpus.held_out_size.bytes == sum(len(found.tokenizer.decode(row).encode()) for row in held)
    assert corpus.fingerprint == found.split(Random(1), 0.2).fingerprint != found.split(Random(2), 0.2).fingerprint


def test_the_end_of_sharded_text_is_held_out(text: Path, tmp_path: Path) -> None:
    sharded(text, tmp_path / "out", 2, format="chunks", chunk_size=10)
    found = load(Data(path=str(tmp_path / "out")), 8)
    corpus = found.split(Random(1), 0.3)
    documents = [row for feed in found.held_out().held_out(1000) for row in rows(feed)]
    held = [row for feed in corpus.held_out(1000) for row in rows(feed)]
    assert held == documents[-len(held) :]
    trained = set(rows(corpus.feed(0, corpus.n_rows(1000), 1, 1000)))
    assert trained == set(documents[: -len(held) - 1])  # the one between shares text with both


def test_missing_damaged_and_other_parts_are_refused(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokenizer, _ = sharded(text, out, 2)
    data = Data(path=str(text))
    with pytest.raises(UsageError, match="part 1 of 2"):
        write_part(read_documents(data), tokenizer, out, 1, 2)
    with pytest.raises(UsageError, match=r"something else \(parts differ\)"):
        write_part(read_documents(data), tokenizer, out, 1, 3)
    place = out / "part-2-of-2" / "shard-00000" / "tokens.bin"
    good = place.read_bytes()
    place.write_bytes(good[:8] + b"\0" + good[9:])
    with pytest.raises(DataError, match="its tokens are not those that were written"):
        load(Data(path=str(out)), 8)
    place.write_bytes(good)
    load(Data(path=str(out)), 8, tokenizer)
    other, _ = encode(read_documents(Data(path=str(text), tokenizer="word")))
    with pytest.raises(DataError, match="of another tokenizer"):
        load(Data(path=str(out)), 8, other)
    shutil.rmtree(out / "part-2-of-2")
    with pytest.raises(DataError, match=r"part 2 of 2 is missing.*--part 2/2"):
        load(Data(path=str(out)), 8)


def test_a_tokenizer_that_is_there_is_left_as_it_is(text: Path, tmp_path: Path) -> None:
    """A folder of a model, say."""
    tokenizer, _ = sharded(text, tmp_path / "shards", 1)
    out = tmp_path / "model"
    out.mkdir()
    (out / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="exists already"):
        write_part(read_documents(Data(path=str(text))), tokenizer, out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("tokenizer.json", "{}")]


def test_token_files_of_other_programs(text: Path, tmp_path: Path) -> None:
    data = Data(path=str(text), packing="joined")
    tokenizer, encoded = encode(read_documents(data))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.to_json())
    tokens = encoded.tokens.astype("<u2")
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(tokens)
    (tmp_path / "llmc.bin").write_bytes(header.tobytes() + tokens.tobytes())
    (tmp_path / "nano.bin").write_bytes(np.append(tokens[1:], tokenizer.bos).astype("<u2").tobytes())
    given = {"tokenizer": str(tmp_path / "tokenizer.json")}
    found = load(Data(path=str(tmp_path / "llmc.bin"), **given), 8)
    (feed,) = found.held_out().held_out(10_000)
    assert np.array_equal(feed.tokens, tokens)
    assert load(Data(path=str(tmp_path / "*.bin"), **given), 8).split(Random(1), 0.1).n_tokens == 2 * len(tokens)
    with pytest.raises(DataError, match=r"tokens, without their tokenizer; name its tokenizer\.json with --tokenizer"):
        load(Data(path=str(tmp_path / "nano.bin")), 8)
    (tmp_path / "bad.bin").write_bytes(tokens.tobytes()[:-1])
    with pytest.raises(DataError, match=r"bad\.bin: no whole file of tokens"):
        load(Data(path=str(tmp_path / "bad.bin"), **given), 8)
    (tmp_path / "bad.bin").write_bytes(np.append(tokens, 5000).astype("<u2").tobytes())
    with pytest.raises(DataError, match=r"bad\.bin: token 5000 in it, and the tokenizer has"):
        load(Data(path=str(tmp_path / "bad.bin"), **given), 8)


def test_a_model_is_trained_on_shards_and_resumed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shards_module, "SHARD_TOKENS", 300)
    assert main(["data", "tokenize", str(text), "--tokenizer", "bpe", "--vocab-size", "280", "--out", "tokens"]) == 0
    options = ["--steps", "6", "--engine", "manual", "--eval-every", "3", "--checkpoint-every", "3", "--samples", "2"]
    assert main(["train", "tokens", "--out", "one", *options]) == 0, capsys.readouterr().err
    assert main(["train", "tokens", "--out", "two", *options, "--stop-at", "3"]) == 0
    shutil.move("text", "gone")  # the text is not needed
    assert main(["train", "--resume", "--out", "two"]) == 0, capsys.readouterr().err
    ends = [Path(run, "checkpoints", "step-00000006", "model.safetensors").read_bytes() for run in ("one", "two")]
    assert ends[0] == ends[1]
    capsys.readouterr()
    assert main(["eval", "one", "--engine", "manual", "--json", "--samples", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] > 0
