"""Documents to tokens: in memory and in memory-mapped files alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.config import Data
from microgpt.data import documents, known_files, sources
from microgpt.data.corpus import build
from microgpt.data.documents import Documents, read_documents
from microgpt.data.encode import encode
from microgpt.data.load import load as load_whole
from microgpt.data.sources import find_sources
from microgpt.data.token_folder import Encoded
from microgpt.errors import CheckpointError, DataError
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import Tokenizer


def load(
    data: Data, tokenizer: Tokenizer | None = None, progress: ProgressCallback = no_progress
) -> tuple[Documents, Tokenizer, Encoded]:
    found = read_documents(data)
    return found, *encode(found, tokenizer, progress)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data" / "tokens"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = Random(0)
    words = ["alpha", "bet", "gämma", "", "delta " * 3, "bet"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(rng.choices(words, k=rng.randrange(5))) for _ in range(300)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trailing_bos": False},
        {"packing": "joined", "format": "paragraphs"},
        {"tokenizer": "bpe", "tokenizer_size": 300},
        {"tokenizer": "word"},
        {"drop_duplicates": True},
        {"drop_empty": False},
        {"format": "chunks", "chunk_size": 7},
    ],
    ids=str,
)
def test_mapped_tokens_are_those_in_memory(
    cache: Path, text: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    data = Data.model_validate({"path": str(text), **options})
    _, tokenizer, small = load(data)
    monkeypatch.setattr(documents, "IN_MEMORY", 1000)
    monkeypatch.setattr(sources, "PIECE", 100)
    found, again, large = load(data)
    assert found.held is None
    assert large.pages is not None
    assert again.to_json() == tokenizer.to_json()

    def rows(encoded: Encoded) -> list[bytes]:
        kept = range(len(encoded.sizes)) if encoded.kept is None else encoded.kept
        cut = [encoded.tokens[encoded.offsets[i] : encoded.offsets[i + 1]].astype(int).tobytes() for i in kept]
        return [row + str(encoded.sizes[i]).encode() for row, i in zip(cut, kept, strict=True)]

    assert rows(large) == rows(small)
    one, two = (build(found, each, Random(3), 0.2) for each in (small, large))
    assert one.n_train == two.n_train
    for ours, theirs in zip(one.held_out(8), two.held_out(8), strict=True):
        assert np.array_equal(ours.tokens, theirs.tokens)
    if "drop_duplicates" not in options:
        assert one.fingerprint == two.fingerprint
    assert sorted(found.notes) == sorted(load(data)[0].notes), "the notes stay known"


def test_the_cache_is_found_again_and_never_for_another_text(
    cache: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 10)
    messages: list[str] = []

    def record(message: str, seconds: float | None) -> None:
        assert seconds is None
        messages.append(message)

    load(Data(path=str(text)), progress=record)
    assert {message.partition(":")[0] for message in messages} == {"learning the tokenizer", "encoding"}
    messages.clear()
    load(Data(path=str(text)), progress=record)
    assert not messages
    assert len(list(cache.iterdir())) == 1
    load(Data(path=str(text), trailing_bos=False), progress=record)
    assert len(list(cache.iterdir())) == 2
    content = text.read_text(encoding="utf-8")
    text.write_text(content[:-1] + "!", encoding="utf-8")  # far from the beginning, of the same length
    load(Data(path=str(text)), progress=record)
    assert len(list(cache.iterdir())) == 3


def test_files_that_kept_their_sizes_and_times_are_not_hashed_again(
    cache: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sources.sha256(find_sources(str(text)))
    os.utime(text, (1, 1))
    assert sources.sha256(find_sources(str(text))) == before  # too young by its ctime: not remembered
    monkeypatch.setattr(known_files, "MOMENT", -60.0)
    assert sources.sha256(find_sources(str(text))) == before
    reads: list[str] = []
    monkeypatch.setattr(sources, "_read", lambda source: reads.append(source.name) or iter([b"x"]))
    assert sources.sha256(find_sources(str(text))) == before
    assert not reads
    assert sources.sha256(find_sources(str(text)), verify=True) != before
    assert sources.sha256(find_sources(str(text))) != before, "what was read last is remembered"
    assert len(reads) == 1
    os.utime(text, (2, 2))
    sources.sha256(find_sources(str(text)))
    assert len(reads) == 2


def test_a_tokenizer_from_a_sample_of_the_text(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"{chr(0x4E00 + i // 10)}{i:05}" for i in range(10_000)), encoding="utf-8")
    _, whole, _ = load(Data(path=str(path)))
    assert load(Data(path=str(path), tokenizer_sample="1 MB"))[1].to_json() == whole.to_json()
    data = Data(path=str(path), tokenizer="word", tokenizer_sample="5kB", unk=True)
    known = {}
    for limit in (1 << 20, 1000):  # in memory, and in mapped files
        monkeypatch.setattr(documents, "IN_MEMORY", limit)
        _, tokenizer, _ = load(data)
        known[limit] = [i for i in range(10_000) if not tokenizer.unknown_parts(f"{chr(0x4E00 + i // 10)}{i:05}")]
        assert 4_000 < 7 * len(known[limit]) < 6_000
        assert known[limit][0] < 700
        assert known[limit][-1] > 9_300, "spread over the text"
    with pytest.raises(ValueError, match="a size such as 200MB"):
        Data(tokenizer_sample="many")


@pytest.mark.parametrize("limit", [1 << 20, 1000], ids=["held", "mapped"])
@pytest.mark.parametrize("kind", ["lines", "chat"])
@pytest.mark.parametrize("rule", [{}, {"val_split": "end"}, {"split_seed": 7, "drop_duplicates": True}])
def test_merges_without_the_held_out_text(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, kind: str, rule: dict[str, Any]
) -> None:
    """Each text has a word of its own. Learnt from what is trained on, those of the held-out texts are no tokens; what
    is held out stays the same."""
    monkeypatch.setattr(documents, "IN_MEMORY", limit)
    words = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}xyz" for n in range(60)]
    texts = [f"{word} {word} {word} zq" for word in words]
    path = tmp_path / "text.jsonl"
    if kind == "chat":
        talks = [[{"role": "user", "content": "zq"}, {"role": "assistant", "content": text}] for text in texts]
        path.write_text("\n".join(map(json.dumps, talks)), encoding="utf-8")
    else:
        path = tmp_path / "text.txt"
        path.write_text("\n".join(texts[:30] * ("drop_duplicates" in rule) + texts), encoding="utf-8")
    found = {}
    for part in ("all", "train", "all"):  # twice all: the cache of one is not that of the other
        options = {"tokenizer": "bpe", "tokenizer_size": 600, "val_fraction": 0.2, "format": kind, **rule}
        text = load_whole(Data.model_validate({"path": str(path), "tokenizer_on": part, **options}), 64)
        corpus: Any = text.split(Random(1), 0.2)
        learnt = {word for word in words if len(text.tokenizer.encode(f"a {word}")) == 2}
        held = text.tokenizer.decode(token for feed in corpus.held_out(64) for token in feed.tokens.tolist())
        found[part] = held, learnt
    held = found["all"][0]
    assert found["all"][1] == set(words)
    assert found["train"] == (held, {word for word in words if word not in held})
    assert 44 <= len(found["train"][1]) <= 48


def test_a_cut_cache_is_refused(cache: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 10)
    load(Data(path=str(text)))
    (folder,) = cache.iterdir()
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-2])
    with pytest.raises(DataError, match="its files are incomplete; remove this folder"):
        load(Data(path=str(text)))


def test_a_crash_while_encoding_leaves_no_cache(cache: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 10)

    def dies(message: str, seconds: float | None) -> None:
        if message.startswith("encoding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(Data(path=str(text)), progress=dies)
    assert list(cache.iterdir()) == []


def test_bad_text_shows_and_can_be_left_out_of_a_long_one(
    cache: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 10)
    text.write_bytes(text.read_bytes() + b"\nbad \xff line\ngood\n")
    with pytest.raises(DataError, match=r"text\.txt:301:5: byte 0xff"):
        load(Data(path=str(text)))
    for _ in range(2):
        found, _, encoded = load(Data(path=str(text), skip_bad=True))
        assert [(reject.line, reject.text) for reject in found.rejects] == [(301, "bad \\udcff line")]
    assert encoded.sizes[-1].tolist() == [4, 4, 0, 0]


def test_unknown_characters_name_the_document(text: Path, tmp_path: Path) -> None:
    _, tokenizer, _ = load(Data(path=str(text)))
    other = tmp_path / "other.txt"
    other.write_text("alpha\nomega @\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.txt: in the document 'omega @': .*'o'"):
        load(Data(path=str(other)), tokenizer)


def test_a_tokenizer_file(text: Path, tmp_path: Path) -> None:
    _, tokenizer, encoded = load(Data(path=str(text), tokenizer="bpe", tokenizer_size=290))
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer.to_json())
    _, read, again = load(Data(path=str(text), tokenizer=str(path)))
    assert read.to_json() == tokenizer.to_json()
    assert again.sha256 == encoded.sha256
    with pytest.raises(DataError, match=r"--tokenizer .*none\.json: cannot be read"):
        load(Data(path=str(text), tokenizer=str(tmp_path / "none.json")))
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load(Data(path=str(text), tokenizer=str(path)))


MEASURE = """
import sys
from microgpt.config import Data
from microgpt.data import documents, known_files, sources
from microgpt.data.load import load
from microgpt.training.bench import peak_rss_mb

path, small, mapped = sys.argv[1:]
load(Data(path=small), 16)
if mapped == "yes":
    documents.IN_MEMORY, sources.PIECE = 1 << 18, 1 << 18
before = peak_rss_mb()
load(Data(path=path), 16)
print(int((peak_rss_mb() - before) * 2**20))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory as POSIX systems do")
def test_memory_stays_far_below_the_text(cache: Path, text: Path, tmp_path: Path) -> None:
    """The short form of benchmarks/tokenise_large.py: 30 MB of text, of which a quarter of a megabyte is held."""
    large = tmp_path / "large.txt"
    content = text.read_text(encoding="utf-8")
    large.write_text(content * (30_000_000 // len(content.encode())), encoding="utf-8")
    grown = {}
    for mapped in ("yes", "no"):
        command = [sys.executable, "-c", MEASURE, str(large), str(text), mapped]
        grown[mapped] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown["yes"] < 30_000_000 < grown["no"]
