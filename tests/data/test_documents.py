"""Text to documents: what each format takes for a document, and how each kind of bad text is named."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt.config import Data
from microgpt.data import documents, sources
from microgpt.data.documents import chunks, fold, read_documents
from microgpt.data.load import load
from microgpt.data.sources import find_sources
from microgpt.errors import DataError, UsageError


def texts(path: Path | str, **options: object) -> list[str]:
    return list(read_documents(Data.model_validate({"path": str(path), **options})).texts)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_are_stripped_and_empty_ones_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", " one \n\n two\n\t\nthree")
    assert texts(path) == ["one", "two", "three"]
    assert texts(path, drop_empty=False) == ["one", "", "two", "", "three"]
    assert texts(path, drop_empty=False, packing="joined", trailing_bos=False) == ["one", "", "two", "", "three"]
    for kept in (True, False):  # BOS alone predicts nothing
        data = Data(path=str(path), drop_empty=not kept, trailing_bos=not kept)
        assert read_documents(data).notes == [f"{path}: empty documents dropped: 2"]
        assert texts(path, drop_empty=not kept, trailing_bos=not kept) == ["one", "two", "three"]


def test_paragraphs_keep_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n\nA:\n  first line  \nsecond\n \t\n\nB:\nthird")
    assert texts(path, format="paragraphs") == ["A:\n  first line\nsecond", "B:\nthird"]


def windows(text: str, size: int, step: int) -> list[str]:
    """The definition: every whole window."""
    return [text[at : at + size] for at in range(0, len(text), step) if at + size <= len(text)]


@pytest.mark.parametrize("overlap", [None, 0, 3, 9])
@pytest.mark.parametrize("length", [9, 10, 11, 24, 25, 26, 103])
def test_chunks_are_whole_windows(tmp_path: Path, length: int, overlap: int | None) -> None:
    text = "".join(chr(97 + i % 26) for i in range(length))
    path = write(tmp_path / "a.txt", text)
    options = {"format": "chunks", "chunk_size": 10, "chunk_overlap": overlap}
    expected = windows(text, 10, 10 - (5 if overlap is None else overlap))
    if expected:
        assert texts(path, **options) == expected
    else:
        with pytest.raises(DataError, match="at least 10 characters"):
            texts(path, **options)


def test_folding_does_not_depend_on_where_pieces_are_cut() -> None:
    text = "  a\n b \t c  d\n\n e\n"
    for cut in range(len(text)):
        for second in range(cut, len(text)):
            assert "".join(fold([text[:cut], text[cut:second], text[second:]])) == "a b c d e"
    pieces = ["ab", "", "c", "defgh", "ij"]
    assert [text for _, batch in chunks(pieces, 4, 1) for text in batch] == ["abcd", "defg", "ghij"]


def test_whitespace_may_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\n\nb c")
    options = {"format": "chunks", "chunk_size": 3, "chunk_overlap": 0}
    assert texts(path, **options, fold_whitespace=False) == ["a\n\n", "b c"]
    assert texts(path, **options) == ["a b"]


def test_alice_is_cut_as_kgx_cuts_it(real_data: Callable[[str], Path]) -> None:
    path = real_data("alice")
    found = texts(path, format="chunks")
    assert len(found) == 2523
    assert found[1][:64] == found[0][64:]
    inside = texts(path, format="chunks", strip_gutenberg=True)
    assert inside[0].startswith("ALICE’S ADVENTURES IN WONDERLAND Lewis Carroll")
    assert not any("Gutenberg" in text for text in inside)


def test_gutenberg_marks(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt",
        "x\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\nbook\n*** END OF THE PROJECT GUTENBERG EBOOK A ***\ny",
    )
    assert texts(path, strip_gutenberg=True) == ["book"]
    bare = write(tmp_path / "b.txt", "book\n")
    found = read_documents(Data(path=str(bare), strip_gutenberg=True))
    assert found.texts == ["book"]
    assert found.notes == [f"{bare}: files without Project Gutenberg's marks: 1"]


def test_books_beside_other_text(tmp_path: Path) -> None:
    """Of several books in a file, with poems before, between and behind them, all stays but the headers and footers."""
    license = "small print\n subscribe to our email newsletter to hear about new eBooks.\n"
    book = (
        "Project Gutenberg’s {0}, by Lewis Carroll\n\nThis eBook is under the Project Gutenberg License\n\n"
        "*** START OF THIS PROJECT GUTENBERG EBOOK {0} ***\n\nOnce upon {0}\n\nEnd of Project Gutenberg’s {0}\n\n"
        f"*** END OF THIS PROJECT GUTENBERG EBOOK {{0}} ***\n\n*** START: FULL LICENSE ***\n\n{license}\n"
    )
    a, b, c = map(book.format, "ABC")
    cut_off = b.partition("*** START: FULL")[0]  # its license is not there
    for number, (content, expected) in enumerate(
        [
            (a + b, "A B"),
            (f"one\n\n{a}two\n\n{b}\n\nthree", "one A two B three"),
            (cut_off + c, "B C"),
            (f"{a}\n\n{cut_off}lost with the license", "A B"),
            (a.replace("Project Gutenberg’s A", "\ufeffThe Project Gutenberg EBook of A", 1) + "two", "A two"),
        ]
    ):
        path = write(tmp_path / f"{number}.txt", content)
        found = texts(path, format="paragraphs", strip_gutenberg=True)
        assert " ".join(text.removeprefix("Once upon ") for text in found) == expected


def test_jsonl_takes_the_text_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one\\ntwo", "id": 1}\n{"text": "three"}\n')
    assert texts(path) == ["one\ntwo", "three"]
    other = write(tmp_path / "b.txt", '{"body": "one"}')
    assert texts(other, format="jsonl", text_field="body") == ["one"]


def test_folders_globs_and_packed_files(tmp_path: Path) -> None:
    import zstandard

    write(tmp_path / "b.txt", "b\n")
    write(tmp_path / "a.md.gz", gzip.compress(b"a\n"))
    write(tmp_path / "c.jsonl.zst", zstandard.compress(b'{"text": "c"}\n'))
    write(tmp_path / "d.png", b"\x89PNG")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "e.txt", "e\n")
    assert texts(tmp_path) == ["a", "b", "c", "e"]
    assert texts(tmp_path / "*.txt") == ["b"]
    with pytest.raises(DataError, match="no file matches"):
        texts(tmp_path / "*.rst")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no text file in this folder; expected \.txt"):
        texts(tmp_path / "empty")


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    import zstandard

    for name, data in (("a.txt.gz", gzip.compress(b"text\n" * 9)), ("a.txt.zst", zstandard.compress(b"text\n" * 9))):
        for damaged in (b"not packed at all", data[:-6]):
            with pytest.raises(DataError, match=f"{name}"):
                texts(write(tmp_path / name, damaged))


def test_an_archive_with_gigabytes_of_zeros_is_refused_at_once(tmp_path: Path) -> None:
    """gzip skips zeros after an archive one by one; a few may be there."""
    path = write(tmp_path / "a.txt.gz", gzip.compress(b"text\n" * 9) + bytes(512))
    texts(path)
    os.truncate(path, 3 << 30)
    with pytest.raises(DataError, match=r"a\.txt\.gz: damaged gzip data \(it ends in zeros\)"):
        texts(path)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.txt.zst", "a.jsonl.zst"])
@pytest.mark.parametrize("cut", [0, 1, 4, 20, -6])
def test_a_broken_archive_is_named_wherever_it_is_read(tmp_path: Path, name: str, cut: int) -> None:
    """Before its documents are read: whether they are conversations, and the hash of a long text."""
    import zstandard

    line = b"".join(b'{"text": "word %d"}\n' % i for i in range(999))
    packed = gzip.compress(line) if name.endswith("gz") else zstandard.compress(line)
    path = write(tmp_path / name, packed[:cut] + (b"\xff" * 9 if cut >= 0 else b""))
    for read in (
        lambda: load(Data(path=str(path)), 8),
        lambda: sources.sha256(find_sources(str(path))),
        lambda: sources.read_text(path),
    ):
        with pytest.raises(DataError, match=name):
            read()


def test_zstd_is_read_to_its_end_or_refused(tmp_path: Path) -> None:
    import zstandard

    text = "".join(f"word {i}\n" for i in range(999))
    for packer in (zstandard.ZstdCompressor(), zstandard.ZstdCompressor(write_content_size=False)):
        packed = packer.compress(text.encode())
        assert sources.read_text(write(tmp_path / "a.zst", packed + packed)) == text + text
        for size in [*range(1, 40), *range(40, len(packed), 97), len(packed) - 1]:
            with pytest.raises(DataError, match=r"a\.zst"):
                sources.read_text(write(tmp_path / "a.zst", packed[:size]))


def test_no_pipe_is_read_as_a_text_and_nothing_too_long_as_a_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt: cannot be read \(not a plain file\)"):
        texts(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"a\.txt: more than 4 characters"):
        sources.read_text(write(tmp_path / "a.txt", "12345"), 4)
    with pytest.raises(DataError, match="a NUL character in its name"):
        texts(Path("a\0b"))


def test_byte_order_mark_and_crlf_are_made_right_and_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\r\n")
    found = read_documents(Data(path=str(path)))
    assert found.texts == ["one", "two", "three"]
    assert found.notes == [
        f"{path}: byte order mark dropped: 1",
        f"{path}: line ends CRLF read as LF, files: 1",
    ]


def test_line_ends_and_letters_may_lie_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", "ä€\r\n𝄞x\r\n\r\nende")
    for piece in range(1, 9):
        monkeypatch.setattr(sources, "PIECE", piece)
        assert texts(path) == ["ä€", "𝄞x", "ende"]


BAD = [
    ("empty", "a.txt", b"", "a.txt: no text in it; expected one document per line"),
    ("blank", "a.txt", b" \n\n", "a.txt: no text in it; expected one document per line"),
    ("latin-1", "a.txt", b"one\ntw\xf6\n", "a.txt:2:3: byte 0xf6 is not UTF-8; save the file as UTF-8"),
    ("cut short", "a.txt", "one\nä".encode()[:-1], "a.txt:2:1: byte 0xc3 is not UTF-8"),
    ("UTF-16", "a.txt", "one".encode("utf-16"), "a.txt:1:1: byte 0xff is not UTF-8 (the file looks like UTF-16)"),
    ("NUL", "a.txt", b"one\nt\0o\n", "a.txt:2:2: a NUL character"),
    ("huge line", "a.txt", b"one\n" + b"x" * 99, "a.txt:2: a line of more than 50 characters; break it"),
    ("blank line", "a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', "a.jsonl:2: a blank line; expected a JSON object"),
    ("bad JSON", "a.jsonl", b'{"text": "a"}\n{"text": a}\n', "a.jsonl:2: not JSON at column 10"),
    ("cut JSON", "a.jsonl", b'{"text": "a"}\n{"text', "a.jsonl:2: not JSON at column 2"),
    ("NaN", "a.jsonl", b'{"text": "a", "x": NaN}', "a.jsonl:1: NaN is not JSON"),
    ("deep JSON", "a.jsonl", b'{"text": ' + b"[" * 40 + b"]" * 40 + b"}", "a.jsonl:1: "),
    ("list", "a.jsonl", b'["a"]', "a.jsonl:1: expected a JSON object, got list"),
    ("wrong field", "a.jsonl", b'{"txt": "a"}', "a.jsonl:1: no key 'text'; did you mean txt"),
    ("no key", "a.jsonl", b"{}", "a.jsonl:1: no key 'text'; it is empty"),
    ("no text", "a.jsonl", b'{"text": 3}', "a.jsonl:1: 'text' must be a text, got int"),
    ("same key twice", "a.jsonl", b'{"text": "a", "text": "b"}', "a.jsonl:1: the key 'text' occurs twice"),
    ("half a character", "a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: 'text' holds half a character"),
    ("NUL in JSON", "a.jsonl", b'{"text": "\\u0000"}', "a.jsonl:1: 'text' holds a NUL character"),
]


@pytest.mark.parametrize(("name", "data", "sentence"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_text_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, sentence: str
) -> None:
    monkeypatch.setattr(documents, "MAX_LINE", 50)
    with pytest.raises(DataError) as caught:
        texts(write(tmp_path / name, data))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "data"), [row[1:3] for row in BAD[2:]], ids=[row[0] for row in BAD[2:]])
@pytest.mark.parametrize("piece", [1, 7, 40])
def test_bad_text_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, piece: int
) -> None:
    """All documents but the bad ones, which are counted; good ones around stay."""
    monkeypatch.setattr(documents, "MAX_LINE", 50)
    monkeypatch.setattr(sources, "PIECE", piece)
    good = b'{"text": "good"}\n' if name.endswith("jsonl") else b"good\n"
    path = write(tmp_path / name, data.removesuffix(b"\n") + b"\n" + good)
    found = read_documents(Data(path=str(path), skip_bad=True))
    assert list(found.texts)[-1] == "good"
    assert len(found.rejects) == 1
    assert found.rejects[0].file == str(path)
    json.dumps(found.rejects)


def test_column_of_a_bad_byte_does_not_depend_on_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", "äöü\nabcäö".encode() + b"\xff")
    for piece in (1, 2, 3, 5, 100):
        monkeypatch.setattr(sources, "PIECE", piece)
        with pytest.raises(DataError, match=r"a\.txt:2:6: byte 0xff"):
            texts(path)


def test_duplicates_are_counted_and_dropped_if_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\nb\na\na\n")
    kept = read_documents(Data(path=str(path)))
    assert kept.texts == ["a", "b", "a", "a"]
    assert kept.notes == [f"{path}: exact duplicates kept (--drop-duplicates drops them): 2"]
    dropped = read_documents(Data(path=str(path), drop_duplicates=True))
    assert dropped.texts == ["a", "b"]
    assert dropped.notes == [f"{path}: exact duplicates dropped: 2"]


def test_missing_text_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: no such file; name a text file"):
        texts(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="nothing to train on; name a text file with --data"):
        read_documents(Data())


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError) as error:
        texts(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: cannot be read (Permission denied); ")


def test_pydocs_need_no_network() -> None:
    found = read_documents(Data(dataset="pydocs", format="paragraphs"))
    assert any("assert" in text for text in found.texts)
    assert found.source == "pydocs"
