"""The texts of a column of a Parquet file, in batches of a megabyte, whatever the size of its row groups.

Data sets of Hugging Face are folders of such files. pyarrow takes 0.2 s to import, so it loads when one is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.errors import DataError, MachineError, install, nearest

BATCH = 1 << 20  # bytes of text per batch, by the mean of the file's rows
MOST_ROWS = 1 << 16  # per batch
BUFFER = 1 << 20  # bytes read at once


def texts(path: Path, column: str) -> Iterator[tuple[range, list[str | bytes | None]]]:
    """The numbers of rows from 1, and their texts: None for null, bytes for what is not UTF-8.

    Raises DataError for a damaged file, with the columns of text where `column` is none, MachineError without pyarrow.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MachineError(f"{path}: pyarrow is not installed; {install('data')}") from None
    try:
        # not the whole column of a row group at once, and no threads that would hold more of them
        with (
            files.open_plain(path) as opened,
            parquet.ParquetFile(opened, buffer_size=BUFFER, pre_buffer=False) as file,
        ):
            _require_text(file.schema_arrow, column, path)
            begin = 1
            for batch in file.iter_batches(_rows(file.metadata), columns=[column], use_threads=False):
                yield range(begin, begin + len(batch)), _values(batch.column(0))
                begin += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= 100 else reason[:99] + "…"
    return DataError(f"{path}: cannot be read as Parquet ({reason}); name a whole file, or download it again")


def _require_text(schema: Any, column: str, path: Path) -> None:
    """Raise DataError where the column is not one of text, with those that are."""
    kinds = {field.name: str(getattr(field.type, "value_type", field.type)) for field in schema}
    usable = [name for name, kind in kinds.items() if kind in ("string", "large_string", "string_view")]
    if column in usable:
        return
    if not usable:
        shown = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
        raise DataError(f"{path}: no column of text in it; its columns: {shown[:200]}")
    problem = f"column {column!r} holds {kinds[column]}" if column in kinds else f"no column {column!r}"
    hint = nearest(column, dict.fromkeys(usable)) if column not in kinds else f"there are: {', '.join(usable)}"
    raise DataError(f"{path}: {problem}; {hint}; name the column with --text-field")


def _rows(metadata: Any) -> int:
    """Rows that hold about BATCH bytes together."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(MOST_ROWS, BATCH * metadata.num_rows // max(1, size)))


def _values(column: Any) -> list[str | bytes | None]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        import pyarrow

        plain = column.dictionary_decode() if hasattr(column, "dictionary_decode") else column
        return [_decoded(value) for value in plain.cast(pyarrow.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return value
