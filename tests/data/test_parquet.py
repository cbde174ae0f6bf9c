"""Texts of Parquet files: what counts as a document, how mistakes are named, and that memory stays bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from microgpt.config import Data
from microgpt.data import parquet
from microgpt.data.documents import read_documents
from microgpt.errors import DataError, UsageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LINES = ["one", " two\r\nlines ", "", "drei und größer", "one"]


def write(path: Path, columns: dict[str, object], **options: object) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def texts(path: Path, **options: object) -> list[str]:
    return list(read_documents(Data.model_validate({"path": str(path), **options})).texts)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_row_is_a_document(tmp_path: Path, kind: object) -> None:
    column = pa.array(LINES).cast(kind)
    path = write(tmp_path / "a.parquet", {"text": column, "n": range(5)}, row_group_size=2)
    assert texts(path) == ["one", "two\nlines", "drei und größer", "one"]
    assert texts(path, drop_duplicates=True, drop_empty=False) == ["one", "two\nlines", "", "drei und größer"]


def test_a_folder_of_parquet_leaves_its_readme_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("about the set")
    for name in ("train-1", "train-0"):
        write(tmp_path / "data" / f"{name}.parquet", {"text": [name], "title": ["t"]})
    assert texts(tmp_path) == ["train-0", "train-1"]
    assert texts(tmp_path, text_field="title") == ["t", "t"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"body": ["x"], "title": ["y"], "n": [1]})
    with pytest.raises(DataError, match=r"no column 'text'; there are: body, title; name the column with --text-field"):
        texts(path)
    with pytest.raises(DataError, match=r"column 'n' holds int64; there are: body, title"):
        texts(path, text_field="n")
    with pytest.raises(DataError, match=r"no column of text in it; its columns: n \(int64\)"):
        texts(write(tmp_path / "n.parquet", {"n": [1]}))
    with pytest.raises(UsageError, match=r"--format chunks: .*a\.parquet is Parquet"):
        texts(path, format="chunks")
    damaged = tmp_path / "d.parquet"
    for data in (b"", b"PAR1", path.read_bytes()[:-9], path.read_bytes()[:40] + path.read_bytes()[60:]):
        damaged.write_bytes(data)
        with pytest.raises(DataError, match=r"d\.parquet: cannot be read as Parquet"):
            texts(damaged, text_field="body")


def test_bad_rows_are_named_or_dropped(tmp_path: Path) -> None:
    not_utf8 = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    for bad, why in ((pa.array([None], pa.string()), "no text"), (pa.array(["a\0"]), "a NUL"), (not_utf8, "byte 0xff")):
        column = pa.chunked_array([pa.array(["good"]), bad, pa.array(["fine"])])
        path = write(tmp_path / "a.parquet", {"text": column})
        with pytest.raises(DataError, match=rf"a\.parquet:2: {why}.*--skip-bad"):
            texts(path)
        found = read_documents(Data(path=str(path), skip_bad=True))
        assert list(found.texts) == ["good", "fine"]
        assert [(reject.line, why in reject.why) for reject in found.rejects] == [(2, True)]


def test_a_large_row_group_is_not_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH", 10_000)
    path = write(tmp_path / "a.parquet", {"text": [f"{i:06} " * 10 for i in range(5000)]}, use_dictionary=False)
    batches = [values for _, values in parquet.texts(path, "text")]
    assert len(batches) > 20
    assert sum(map(len, batches)) == 5000
