"""What holds for every kind: round trip, ids of the `tokenizers` library, special tokens, files, streams."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import microgpt.tokenizers
from microgpt.errors import CheckpointError, DataError, UsageError
from microgpt.tokenizers import KINDS, ROLES, Tokenizer, read, train
from tests.tokenizers.common import BPE, EXACT, LITERALS, SAID, TEXTS, anything, known, library, trained

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_ids_are_the_vocabulary_then_the_special_tokens_with_bos_last(kind: str) -> None:
    plain, chat = trained(kind), trained(kind, roles=True, unk=True)
    assert plain.special == {"bos": plain.vocab_size - 1}
    assert plain.bos == plain.vocab_size - 1
    n = plain.vocab_size - 1
    assert chat.special == {name: n + i for i, name in enumerate(("unk", *ROLES, "bos"))}
    assert chat.bos == chat.vocab_size - 1 == n + 5


def test_a_kind_is_the_class_in_the_file_of_its_name() -> None:
    folder = Path(microgpt.tokenizers.__file__).parent
    families = {path.stem for path in folder.glob("*.py") if "(Base):" in path.read_text(encoding="utf-8")}
    assert families == {kind.partition("-")[0] for kind in KINDS}
    for kind in KINDS:
        assert type(trained(kind)).__module__ == f"microgpt.tokenizers.{kind.partition('-')[0]}"


def test_names_keep_27_ids(given_names: Path) -> None:
    tokenizer = train("char", given_names.read_text(encoding="utf-8").split())
    assert (tokenizer.vocab_size, tokenizer.bos) == (27, 26)
    assert tokenizer.encode("emma").tolist() == [4, 12, 12, 0]


@pytest.mark.parametrize("kind", EXACT)
@given(text=known)
def test_text_of_known_characters_comes_back_exactly(kind: str, text: str) -> None:
    tokenizer = train(kind, [*TEXTS, text]) if kind == "word" else trained(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
def test_any_unicode_comes_back_from_bytes(text: str) -> None:
    assert trained("bpe").decode(trained("bpe").encode(text)) == text


@pytest.mark.parametrize("kind", ["char", "word", "bpe", "bpe-vidya"])
@given(text=st.text(min_size=1))
def test_any_unicode_comes_back_if_the_vocabulary_was_learnt_from_it(kind: str, text: str) -> None:
    tokenizer = train(kind, [text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(min_size=1))
def test_words_come_back_with_single_spaces(text: str) -> None:
    assume(text.split())
    tokenizer = train("bpe-words", [text], merges=5)
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())


@every_kind
@pytest.mark.parametrize("text", [*SAID, "", " ", "  the  fox ", "\tthe\n\nfox", "the\x1ffox\x85the"])
def test_the_library_reads_the_file_to_the_same_ids(kind: str, text: str) -> None:
    tokenizer, opened = trained(kind, unk=True), library(kind, unk=True)
    ids = tokenizer.encode(text).tolist()
    assert opened.encode(text, add_special_tokens=False).ids == ids
    assert opened.decode(ids) == tokenizer.decode(ids)
    assert opened.get_vocab_size() == tokenizer.vocab_size
    assert opened.token_to_id("<bos>") == tokenizer.bos


@every_kind
@given(text=anything | known)
def test_the_library_agrees_on_any_text(kind: str, text: str) -> None:
    ids = library(kind, unk=True).encode(text, add_special_tokens=False).ids
    assert trained(kind, unk=True).encode(text).tolist() == ids


@every_kind
@pytest.mark.parametrize("unk", [False, True])
@given(text=anything)
def test_no_text_becomes_a_special_token(kind: str, unk: bool, text: str) -> None:
    tokenizer = trained(kind, roles=True, unk=unk)
    forbidden = set(tokenizer.special.values()) - {tokenizer.special.get("unk", -1)}
    assert not forbidden & set(tokenizer.encode(text, unk=True).tolist())
    assert not forbidden & set(tokenizer.encode_batch([text, text], unk=True)[0].tolist())


@every_kind
def test_no_token_is_learnt_from_a_special_tokens_text(kind: str) -> None:
    tokenizer = train(kind, [*LITERALS, "".join(LITERALS)] * 5, roles=True, unk=True)
    vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
    assert [vocabulary[literal] for literal in LITERALS] == [tokenizer.special[literal[1:-1]] for literal in LITERALS]
    assert len(tokenizer.encode("<bos>")) > 1
    read(tokenizer.to_json(), "it")


def test_a_piece_too_long_for_one_encoder_does_not_bring_special_tokens_by_the_other() -> None:
    tokenizer = trained("bpe")
    text = " " * 10**6 + "<bos>"
    ids = tokenizer.encode(text)
    assert tokenizer.bos not in ids
    assert tokenizer.decode(ids) == text


@every_kind
@given(texts=st.lists(known, max_size=5))
def test_a_batch_is_its_texts(kind: str, texts: list[str]) -> None:
    tokenizer = trained(kind)
    one_by_one = [tokenizer.encode(text, unk=True).tolist() for text in texts]
    tokens, lengths = tokenizer.encode_batch(texts, unk=True)
    assert tokens.dtype == np.int32
    assert lengths.tolist() == [len(ids) for ids in one_by_one]
    assert tokens.tolist() == [token for ids in one_by_one for token in ids]


with_unknowns = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bpe"])


@with_unknowns
def test_a_batch_names_what_is_unknown(kind: str) -> None:
    with pytest.raises(DataError, match=r"'☃'? at position 5 .*--unk") as caught:
        trained(kind).encode_batch(["the fox", "the ☃ fox"])
    assert caught.value.code == "E_UNKNOWN_TOKEN"


@with_unknowns
def test_what_is_unknown_is_named_left_out_or_marked(kind: str) -> None:
    plain, marking = trained(kind), trained(kind, unk=True)
    text = "the fox ☃ the"
    with pytest.raises(DataError, match=r"'☃' at position 9 is not in this tokenizer's vocabulary"):
        plain.encode(text)
    assert "☃" not in plain.decode(plain.encode(text, unk=True))
    assert plain.encode(text, unk=True).tolist().count(plain.bos) == 0
    ids = marking.encode(text).tolist()
    assert ids.count(marking.special["unk"]) == 1
    assert [i for i in ids if i != marking.special["unk"]][:1] == plain.encode("the").tolist()[:1]


@every_kind
@pytest.mark.parametrize("text", ["\ud800", "the \udfff"])
def test_half_a_character_is_refused(kind: str, text: str) -> None:
    with pytest.raises(DataError, match=r"position \d"):
        trained(kind).encode(text)
    with pytest.raises(DataError):
        trained(kind).encode_batch(["the", text])
    with pytest.raises(DataError, match="half a character"):
        train(kind, ["the", text])


@every_kind
def test_a_byte_that_is_not_utf8_is_named(kind: str) -> None:
    text = b"the \xfa".decode("utf-8", "surrogateescape")
    with pytest.raises(DataError, match="byte 0xfa at position 5 is not UTF-8"):
        trained(kind).encode(text)


@every_kind
@given(data=st.data())
def test_a_stream_shows_whole_characters_and_all_of_them(kind: str, data: st.DataObject) -> None:
    tokenizer = trained(kind, roles=True)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    stream = tokenizer.stream()
    shown = "".join([stream.feed([token]) for token in ids])
    assert shown + stream.end() == tokenizer.decode(ids)


@given(text=st.text(alphabet="é東🙂a"))
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    tokenizer = train("bpe", [], merges=0)  # a byte a token
    stream = tokenizer.stream()
    shown = [stream.feed([token]) for token in tokenizer.encode(text)]
    assert "�" not in "".join(shown)
    assert "".join(shown) == text
    assert stream.end() == ""


def test_a_character_that_is_never_finished_is_shown_at_the_end() -> None:
    tokenizer = train("bpe", [], merges=0)
    stream = tokenizer.stream()
    assert stream.feed(tokenizer.encode("é")[:1]) == ""
    assert stream.end() == "�"


@every_kind
@pytest.mark.parametrize("token", [-1, 10**6])
def test_what_is_no_token_is_refused(kind: str, token: int) -> None:
    with pytest.raises(DataError, match=f"{token} at position 2 is no token"):
        trained(kind).decode([0, token])


@every_kind
def test_special_tokens_have_no_text(kind: str) -> None:
    tokenizer = trained(kind, roles=True, unk=True)
    assert tokenizer.decode(tokenizer.special.values()) == ""
    assert tokenizer.token(tokenizer.special["end_turn"]) == "<end_turn>"


@every_kind
def test_a_file_reads_back_to_the_same_tokenizer(kind: str) -> None:
    for tokenizer in (trained(kind), trained(kind, roles=True, unk=True)):
        again = read(tokenizer.to_json(), "it")
        assert again.kind == kind
        assert again.special == tokenizer.special
        assert again.to_json() == tokenizer.to_json()
        assert again.encode(SAID[0]).tolist() == tokenizer.encode(SAID[0]).tolist()
    assert trained(kind).to_json() != trained(kind, roles=True).to_json()


@pytest.mark.parametrize("kind", BPE)
def test_each_merge_is_one_token_more(kind: str) -> None:
    alphabet = train(kind, TEXTS, merges=0).vocab_size
    for tokenizer in (train(kind, TEXTS, merges=20), train(kind, TEXTS, vocab_size=alphabet + 20)):
        assert tokenizer.vocab_size == alphabet + 20
        assert len(tokenizer.merge_table()) == 20
        for token, (left, right) in enumerate(tokenizer.merge_table(), alphabet - 1):
            assert tokenizer.token(token) == tokenizer.token(left) + tokenizer.token(right) or kind == "bpe"


def test_rare_words_become_unknown_where_there_is_no_room() -> None:
    tokenizer = train("word-lossy", ["a a a b b c d e"], vocab_size=5)
    assert tokenizer.special == {"unk": 3, "bos": 4}
    assert tokenizer.encode("a b c d e").tolist() == [0, 1, 2, 3, 3]  # of c and d the first in the text stays


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("chars", {}, "no kind 'chars'"),
        ("bpe", {"vocab_size": 300, "merges": 3}, "give one of them"),
        ("word", {"merges": 3}, "merges: not for a word tokenizer"),
        ("char", {"vocab_size": 30}, "vocab_size: not for a char tokenizer"),
        ("bpe", {"vocab_size": 256}, "at least 257"),
        ("bpe-vidya", {"vocab_size": 3}, "no room for the alphabet"),
        ("bpe", {"merges": -1}, "merges: must be 0 to 1,048,576, got -1"),
        ("bpe-words", {"merges": 10**6}, "too many"),
        ("word", {"vocab_size": 2}, "no room for words"),
    ],
)
def test_what_cannot_be_trained_is_refused(kind: str, arguments: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(kind, TEXTS, **arguments)  # type: ignore[arg-type]


@with_unknowns
def test_no_text_is_no_vocabulary(kind: str) -> None:
    with pytest.raises(DataError, match="no text"):
        train(kind, ["", ""])


@every_kind
@pytest.mark.parametrize("text", ["a" * 10**6, " " * 10**6 + "a", "\n" * 10**6, "ab" * 500_000, "a," * 500_000])
def test_a_megabyte_of_one_thing_is_no_trouble(kind: str, text: str) -> None:
    tokenizer = trained(kind, unk=True)
    ids = tokenizer.encode(text)
    if kind in ("bpe", "bpe-vidya") and "\n" not in text:
        assert tokenizer.decode(ids) == text


@every_kind
def test_a_megabyte_of_one_letter_can_be_learnt_from(kind: str) -> None:
    text = "a" * 10**6
    tokenizer = train(kind, [text])
    assert tokenizer.decode(read(tokenizer.to_json(), "it").encode(text)) == text


def _doubling() -> bytes:
    """Merges each of which would make a token twice as long as its name says (with forty: out of memory)."""
    file = json.loads(trained("bpe-vidya").to_json())
    names = ["a", *(f"{i:02}" for i in range(5))]
    file["model"]["vocab"] = {name: i for i, name in enumerate([*names, "<bos>"])}
    file["model"]["merges"] = [[name, name] for name in names[:-1]]
    file["added_tokens"][0]["id"] = len(names)
    return json.dumps(file).encode()


def _mended(tokenizer: Tokenizer, *path: str | int, value: object) -> bytes:
    file = json.loads(tokenizer.to_json())
    place = file
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(file).encode()


HOSTILE = {
    "no JSON": b"{",
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no model": b"{}",
    "model is null": b'{"model": null}',
    "not UTF-8": b'{"model": "\xff"}',
    "a key twice": b'{"model": {"type": "BPE", "type": "BPE", "vocab": {}}}',
    "too large": b" " * (2**26 + 1),
    "another model": _mended(trained("char"), "model", "type", value="Unigram"),
    "another normalizer": _mended(trained("char"), "normalizer", value={"type": "Lowercase"}),
    "a hostile regex": _mended(trained("char"), "pre_tokenizer", "pattern", "Regex", value="(a+)+$"),
    "a post-processor": _mended(trained("bpe"), "post_processor", value={"type": "ByteLevel"}),
    "dropout": _mended(trained("bpe"), "model", "dropout", value=0.5),
    "vocabulary is a list": _mended(trained("word"), "model", "vocab", value=["a"]),
    "an id twice": _mended(trained("word"), "model", "vocab", "the", value=0),
    "an id that is text": _mended(trained("char"), "model", "vocab", "a", value="0"),
    "an id far away": _mended(trained("char"), "model", "vocab", "a", value=2**70),
    "lone surrogate": _mended(trained("char"), "model", "vocab", value={"\ud800": 0, "<bos>": 1}),
    "bos elsewhere": _mended(trained("char"), "added_tokens", 0, "id", value=0),
    "another special token": _mended(trained("char"), "added_tokens", 0, "content", value="</s>"),
    "special token not special": _mended(trained("char"), "added_tokens", 0, "special", value=False),
    "no special token": _mended(trained("char"), "added_tokens", value=[]),
    "two words in one": _mended(trained("word"), "model", "vocab", value={"the fox": 0, "<bos>": 1}),
    "merge of what is not there": _mended(trained("bpe-vidya"), "model", "merges", 0, value=["q", "nothing"]),
    "merge of another": _mended(trained("bpe-vidya"), "model", "merges", 0, value=["q", "u"]),
    "merges in another order": _mended(
        trained("bpe"), "model", "merges", value=json.loads(trained("bpe").to_json())["model"]["merges"][::-1]
    ),
    "merges are text": _mended(trained("bpe"), "model", "merges", value="ab"),
    "merges that double": _doubling(),
    "no merges": _mended(trained("bpe"), "model", "merges", value=[]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^its/tokenizer.json: .+") as caught:
        read(HOSTILE[name], "its/tokenizer.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_merges_are_compared_with_the_names_before_anything_is_built_from_them() -> None:
    with pytest.raises(CheckpointError, match="is not its two parts"):
        read(HOSTILE["merges that double"], "it")


def test_what_differs_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"\(normalizer is not as this version writes it\)"):
        read(HOSTILE["another normalizer"], "it")
