"""Damaged, foreign and hostile checkpoints: refused by name, before they are believed or given memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microgpt import files
from microgpt.cli import main
from microgpt.config import SECTIONS
from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint

FILES = [
    "MANIFEST.json",
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "trainer/optimizer.safetensors",
    "trainer/state.json",
]


@pytest.fixture
def folder(halfway: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage, under its own name."""
    source = checkpoint.list_steps(halfway / "checkpoints")[-1]
    return Path(shutil.copytree(source, tmp_path / source.name))


def open_all(folder: Path) -> None:
    saved = checkpoint.read(folder)
    saved.trainer()
    saved.tensors()


def refused(folder: Path, words: str = "") -> str:
    with pytest.raises(CheckpointError) as caught:
        open_all(folder)
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)
    return str(caught.value)


def reseal(folder: Path) -> None:
    """Make the manifest agree with what the files hold now, as the author of a hostile folder would."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "MANIFEST.json").write_bytes(files.to_json(manifest))


def test_the_checkpoint_is_good_and_holds_these_files(folder: Path) -> None:
    open_all(folder)
    reseal(folder)
    open_all(folder)
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_class_of_truncation(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    white = name == "MANIFEST.json"  # whose last byte is white space after JSON: without it, it says the same
    for length in {0, 1, 7, 8, 9, len(whole) // 4, len(whole) // 2, len(whole) - 8, len(whole) - 1 - white}:
        (folder / name).write_bytes(whole[:length])
        refused(folder)
    (folder / name).write_bytes(whole + b"\n")
    if not white:
        refused(folder, name)
    (folder / name).unlink()
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_bit_flips(folder: Path, name: str, request: pytest.FixtureRequest) -> None:
    whole, rng = bytearray((folder / name).read_bytes()), random.Random(name)
    bits = range(8 * len(whole)) if request.config.getoption("--long") else rng.sample(range(8 * len(whole)), 80)
    for bit in bits:
        whole[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(whole)
        refused(folder)
        whole[bit // 8] ^= 1 << bit % 8


def test_files_of_another_checkpoint(folder: Path, halfway: Path) -> None:
    older = checkpoint.list_steps(halfway / "checkpoints")[0]
    assert older.name != folder.name
    for name in ("MANIFEST.json", "model.safetensors", "trainer/optimizer.safetensors", "trainer/state.json"):
        good = (folder / name).read_bytes()
        shutil.copy(older / name, folder / name)
        refused(folder)
        (folder / name).write_bytes(good)
    shutil.rmtree(folder)
    shutil.copytree(older, folder)  # a whole one under another one's name
    refused(folder, "its step 15 is not the folder's")


Change = Callable[[Any], Any]


def put(*path: Any, value: Any) -> Change:
    """Change one place of a JSON value."""

    def change(content: Any) -> Any:
        at = content
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return content

    return change


def drop(*path: Any) -> Change:
    def change(content: Any) -> Any:
        at = content
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        return content

    return change


ODD = [None, -1, 0.5, 2**70, "x", [], {}, [[1]], True, 1e300]
MODEL = ("n_embd", "family", "block_size")
HOSTILE: list[tuple[str, Change]] = [
    *(("config.json", put("microgpt", "model", key, value=v)) for key in MODEL for v in ODD),
    *(("config.json", put("microgpt", "model", "n_layer", value=v)) for v in (-1, 0, 2, 2**31, 2**70, "1", [1])),
    *(("config.json", put("microgpt", "model", "vocab_size", value=v)) for v in (0, 21, 23, 2**62, "22")),
    *(("config.json", put("microgpt", key, value=v)) for key in SECTIONS for v in ([1], "x", 3)),
    ("config.json", put("microgpt", "optim", "eval", value="__import__('os').system('x')")),
    ("config.json", put("microgpt", "name", value="\ud800")),
    ("config.json", drop("microgpt", "model", "vocab_size")),
    ("config.json", drop("microgpt")),
    ("config.json", lambda content: [content]),
    ("config.json", lambda content: None),
    *(("trainer/state.json", put("step", value=v)) for v in (True, 19, 21, -20, 20.0, "20", None, [20])),
    *(("trainer/state.json", put("tokens", value=v)) for v in (-1, "1", None, 0.5, [])),
    *(("trainer/state.json", put("generator", value=v)) for v in (None, 7, [], [3, [1, 2], None], ["x", "y", "z"])),
    ("trainer/state.json", put("generator", 1, 0, value=2**80)),
    ("trainer/state.json", put("generator", 1, 0, value=-5)),
    ("trainer/state.json", put("generator", 1, 624, value=10**6)),
    *(("trainer/state.json", put("data", value=v)) for v in (None, 7, [], "x")),
    *(("trainer/state.json", put("best", value=v)) for v in (7, [], {}, {"step": 1}, {"step": "1", "val_loss": 2.0})),
    *(("trainer/state.json", drop(key)) for key in ("step", "tokens", "seconds", "generator", "data", "best")),
    *(("tokenizer.json", put("model", "vocab", value=v)) for v in (None, 7, [], ["a"], {}, {"<bos>": 0}, {"ab": 0})),
    *(("tokenizer.json", put("model", "vocab", "a", value=v)) for v in (-1, 1, 99, "0", None, 0.5, [], 2**70)),
    *(("tokenizer.json", put("model", "type", value=v)) for v in (None, 7, [], "Pickle")),
    ("tokenizer.json", put("model", value=None)),
    ("tokenizer.json", lambda content: content["model"]),
    ("tokenizer.json", lambda content: [[content]]),
]


@pytest.mark.parametrize(("name", "change"), HOSTILE)
def test_hostile_values_are_refused(folder: Path, name: str, change: Change) -> None:
    content = change(json.loads((folder / name).read_text()))
    (folder / name).write_text(json.dumps(content))
    refused(folder)  # by the hash
    reseal(folder)
    refused(folder)


@pytest.mark.parametrize("key", ["loss", "val_loss", "bits_per_byte", "evaluated", "best"])
def test_figures_of_another_type_are_named(folder: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "trainer/state.json").read_text())
    (folder / "trainer/state.json").write_text(json.dumps(content | {key: True}))
    reseal(folder)
    assert main(["info", str(folder)]) == 4
    assert f"state.json: {key}: Input should be" in capsys.readouterr().err


RAW = {
    "a key twice": b'{"step": 20, "step": 20}',
    "NaN": b'{"step": NaN}',
    "infinity": b'{"step": -Infinity}',
    "deep nesting": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "five thousand digits": b'{"step": ' + b"9" * 5000 + b"}",
    "half a character": b'{"step": 20, "data": {"source": "\\ud800"}}',
    "not UTF-8": b'{"step": "\xff"}',
    "UTF-16": '{"step": 20}'.encode("utf-16"),
    "empty": b"",
    "a number": b"20",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.",
}


@pytest.mark.parametrize("name", ["config.json", "trainer/state.json", "tokenizer.json"])
@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_json_is_read_strictly(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    reseal(folder)
    refused(folder)


@pytest.mark.parametrize("data", [*RAW.values(), b"{}", b'{"files": {}}', b'{"format": 1, "step": 20, "files": []}'])
def test_a_manifest_is_read_strictly(folder: Path, data: bytes) -> None:
    (folder / "MANIFEST.json").write_bytes(data)
    refused(folder, "MANIFEST.json")


@pytest.mark.parametrize(
    "change",
    [
        put("format", value=2),
        put("format", value="1"),
        drop("format"),
        put("step", value=21),
        put("files", "config.json", value=None),
        put("files", "config.json", "size", value="7"),
        put("files", "config.json", "size", value=-1),
        put("files", "config.json", "sha256", value=None),
        put("files", "../../etc/passwd", value={"size": 1, "sha256": ""}),
        put("files", "/etc/passwd", value={"size": 1, "sha256": ""}),
        drop("files", "config.json"),
        drop("files", "model.safetensors"),
        drop("files", "trainer/state.json"),
        drop("files", "trainer/optimizer.safetensors"),
    ],
)
def test_a_manifest_that_lies(folder: Path, change: Change) -> None:
    content = change(json.loads((folder / "MANIFEST.json").read_text()))
    (folder / "MANIFEST.json").write_text(json.dumps(content))
    refused(folder)


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor_variants(data: bytes) -> dict[str, bytes]:
    header, body = parts(data)
    shapes = {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}
    name = next(key for key, shape in shapes.items() if shape[0] != shape[1])
    other = next(key for key in header if key not in ("__metadata__", name))
    rest = {key: value for key, value in header.items() if key != name}
    entry = header[name]
    begin, end = entry["data_offsets"]

    def with_entry(**changes: Any) -> bytes:
        return join({**rest, name: {**entry, **changes}}, body)

    text = json.dumps(header).encode()
    return {
        "a tensor twice": join(text[:-1] + b", " + json.dumps({name: entry}).encode()[1:], body),
        "a tensor missing": join(rest, body),
        "a tensor too many": join({**header, "extra": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}}, body),
        "another name": join({**rest, name + "x": entry}, body),
        "shape turned": with_entry(shape=entry["shape"][::-1]),
        "shape flat": with_entry(shape=[entry["shape"][0] * entry["shape"][1]]),
        "shape absurd": with_entry(shape=[0, 2**62]),
        "shape no list": with_entry(shape="22,4"),
        "dtype unknown": with_entry(dtype="F7"),
        "dtype of bits": with_entry(dtype="I64"),
        "dtype half": with_entry(dtype="F32"),
        "dtype no text": with_entry(dtype=[1]),
        "no dtype": join({**rest, name: {"shape": entry["shape"], "data_offsets": [begin, end]}}, body),
        "offsets overlap": with_entry(data_offsets=header[other]["data_offsets"]),
        "offsets behind the end": with_entry(data_offsets=[len(body), len(body) + end - begin]),
        "offsets negative": with_entry(data_offsets=[begin - 8, end - 8] if begin == 0 else [-8, end - begin - 8]),
        "offsets turned": with_entry(data_offsets=[end, begin]),
        "offsets absurd": with_entry(data_offsets=[2**64, 2**64 + end - begin]),
        "offsets no numbers": with_entry(data_offsets=["0", "8"]),
        "an entry no object": join({**rest, name: 7}, body),
        "header a list": join([1], body),
        "header empty": join({}, b""),
        "header longer than the file": struct.pack("<Q", 2**40) + data[8:],
        "header as long as 64 bits": struct.pack("<Q", 2**64 - 1) + data[8:],
        "header no UTF-8": join(b"\xff" * 40, body),
        "header deeply nested": join(b"[" * 50_000, body),
        "a hole before the end": join(header, body + b"\0" * 8),
        "body cut": join(header, body[:-8]),
        "nothing": b"",
        "a zip": b"PK\x03\x04" + bytes(100),
    }


@pytest.mark.parametrize("file", ["model.safetensors", "trainer/optimizer.safetensors"])
def test_hostile_tensor_files(folder: Path, file: str) -> None:
    for what, data in tensor_variants((folder / file).read_bytes()).items():
        (folder / file).write_bytes(data)
        reseal(folder)
        try:
            open_all(folder)
        except CheckpointError:
            continue
        pytest.fail(f"{what} was taken")


def test_links_and_pipes(folder: Path, tmp_path: Path) -> None:
    target = folder / "model.safetensors"
    target.unlink()
    for make in (
        lambda: target.symlink_to("/dev/zero"),
        lambda: target.symlink_to(target),
        lambda: target.symlink_to(tmp_path),
        lambda: target.mkdir(),
        lambda: os.mkfifo(target),
    ):
        make()
        refused(folder, "model.safetensors")
        target.rmdir() if target.is_dir() and not target.is_symlink() else target.unlink()


def test_the_newest_is_damaged_and_the_older_one_is_named(
    copy: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy()
    newest = checkpoint.list_steps(out / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"")
    assert main(["train", "names", "--resume", "--out", str(out)]) == 4
    assert f"remove {newest} to continue from step-00000015" in capsys.readouterr().err
    shutil.rmtree(newest)
    assert main(["train", "names", "--resume", "--out", str(out)]) == 0


@pytest.mark.parametrize("command", ["generate", "info"])
def test_commands_refuse_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "empty").mkdir()
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    for path in (folder, tmp_path / "foreign", tmp_path / "empty", tmp_path / "missing", folder / "README.md"):
        assert main([command, str(path)]) == 4
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err.startswith(f"microgpt: {path}")
