"""Rows: what each step trains on, what is held out, and that both are functions of the seed and the step."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.config import Data
from microgpt.data.corpus import DocumentCorpus, all_held_out, build
from microgpt.data.documents import read_documents
from microgpt.data.encode import encode
from microgpt.errors import DataError
from microgpt.feed import Feed

TEXTS = ["a", "bcd", "efghijk", "l", "mnopqrstuv", "wx", "yz", "ab"]


def corpus(tmp_path: Path, *, val_fraction: float = 0.0, seed: int = 1, **options: object) -> DocumentCorpus:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    data = Data.model_validate({"path": str(path), **options})
    documents = read_documents(data)
    _, encoded = encode(documents)
    return build(documents, encoded, Random(seed), val_fraction)


def rows(feed: Feed) -> list[list[int]]:
    return [feed.tokens[a:b].tolist() for a, b in itertools.pairwise(feed.offsets.tolist())]


def written(text: str, *, trailing: bool = True) -> list[int]:
    chars = sorted(set("".join(TEXTS)))
    bos = len(chars)
    return [bos, *(chars.index(char) for char in text), *([bos] if trailing else [])]


@pytest.mark.parametrize("trailing", [True, False])
def test_a_row_is_a_document_cut_to_the_context(tmp_path: Path, trailing: bool) -> None:
    found = corpus(tmp_path, trailing_bos=trailing)
    order = list(range(len(TEXTS)))
    Random(1).shuffle(order)
    expected = [written(TEXTS[i], trailing=trailing)[:5] for i in [*order, *order]]
    assert rows(found.feed(0, 8, 2, 4)) == expected
    assert found.feed(0, 8, 2, 4).targets(0) == sum(len(row) - 1 for row in expected[:2])


@pytest.mark.parametrize("packing", ["rows", "joined"])
def test_blocks_of_steps_are_the_steps_one_by_one(tmp_path: Path, packing: str) -> None:
    found = corpus(tmp_path, packing=packing)
    whole = rows(found.feed(0, 20, 3, 4))
    single = [row for step in range(20) for row in rows(found.feed(step, 1, 3, 4))]
    assert whole == single


def test_joined_rows_cover_every_target_once(tmp_path: Path) -> None:
    found = corpus(tmp_path, packing="joined")
    stream = [token for i in found.order for token in written(TEXTS[i], trailing=False)]
    n = found.n_rows(4)
    assert n == len(stream) // 4
    got = rows(found.feed(0, n, 1, 4))
    assert sorted(got) == sorted((stream + stream)[4 * r : 4 * r + 5] for r in range(n))
    assert got != [(stream + stream)[4 * r : 4 * r + 5] for r in range(n)], "neighbours are kept apart"
    assert rows(found.feed(n, n, 1, 4)) == got
    for row in range(n):
        begin = got[row]
        document = TEXTS[found.place(row, 4)]
        assert begin[0] in written(document)


def test_a_short_text_fills_a_joined_context_over_and_over(tmp_path: Path) -> None:
    found = corpus(tmp_path, packing="joined")
    assert found.n_rows(1000) == 1
    (row,) = rows(found.feed(0, 1, 1, 1000))
    stream = [token for i in found.order for token in written(TEXTS[i], trailing=False)]
    assert row == list(itertools.islice(itertools.cycle(stream), 1001))


@pytest.mark.parametrize("packing", ["rows", "joined"])
@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 100])
def test_held_out_targets_come_once(tmp_path: Path, packing: str, block_size: int) -> None:
    found = corpus(tmp_path, val_fraction=0.5, packing=packing)
    held = [TEXTS[i] for i in found.order[found.n_train :]]
    if packing == "rows":
        expected = [token for text in held for token in written(text)[1:]]
    else:
        expected = [token for text in held for token in written(text, trailing=False)][1:]
    feeds = list(found.held_out(block_size))
    got = [token for feed in feeds for token, scored in zip(feed.tokens, feed.scored, strict=True) if scored]
    assert got == expected
    assert all(len(row) <= block_size + 1 for feed in feeds for row in rows(feed))
    assert found.held_out_size.bytes == sum(map(len, held))


def test_nothing_held_out_is_trained_on(tmp_path: Path) -> None:
    found = corpus(tmp_path, val_fraction=0.25)
    assert found.n_train == 6
    assert sorted(found.order) == list(range(8))
    with pytest.raises(DataError, match="8 documents are too few to hold out 1%"):
        corpus(tmp_path, val_fraction=0.01)


def test_overlapping_chunks_hold_out_the_end_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(0x100 + i) for i in range(500)), encoding="utf-8")
    for overlap in (0, 3, 5, 8, 9):
        data = Data(path=str(path), format="chunks", chunk_size=10, chunk_overlap=overlap)
        documents = read_documents(data)
        _, encoded = encode(documents)
        found = build(documents, encoded, Random(1), 0.2)
        texts = list(documents.texts)
        trained = {char for i in found.order[: found.n_train] for char in texts[i]}
        held = {char for i in found.order[found.n_train :] for char in texts[i]}
        assert held
        assert trained
        assert not trained & held


def test_fingerprints_tell_texts_orders_splits_and_packings_apart(tmp_path: Path) -> None:
    found = [
        corpus(tmp_path),
        corpus(tmp_path, seed=2),
        corpus(tmp_path, val_fraction=0.5),
        corpus(tmp_path, packing="joined"),
        corpus(tmp_path, trailing_bos=False),
        corpus(tmp_path, drop_duplicates=True, drop_empty=False, format="paragraphs"),
    ]
    assert len({each.fingerprint for each in found}) == len(found)
    assert corpus(tmp_path).fingerprint == found[0].fingerprint


def test_all_held_out_keeps_the_order_of_the_text(tmp_path: Path) -> None:
    given = corpus(tmp_path)
    whole = all_held_out(given.documents, given.encoded)
    (feed,) = whole.held_out(100)
    assert np.array_equal(feed.tokens, whole.tokens)
