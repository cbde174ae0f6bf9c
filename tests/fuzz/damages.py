"""Damages of one file: its bytes, its JSON or TOML, its kind and its size."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from microgpt.runs.manifest import MANIFEST
from tests.fuzz.folder import SPECIAL, add_special

Change = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data or b"\0")
    at = rng.randrange(len(out))
    out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def _insert(what: bytes) -> Change:
    def change(data: bytes, rng: random.Random) -> bytes:
        at = rng.randrange(len(data) + 1)
        return data[:at] + what + data[at:]

    return change


def _header(new: Callable[[bytes], bytes]) -> Change:
    """Of a safetensors file: its first eight bytes are the length of a JSON header."""
    return lambda data, rng: new(data[8 : 8 + int.from_bytes(data[:8], "little")]) + data[8:]


BYTES: dict[str, Change] = {
    "empty": lambda data, rng: b"",
    "one byte": lambda data, rng: data[:1],
    "half": lambda data, rng: data[: len(data) // 2],
    "without its last byte": lambda data, rng: data[:-1],
    "cut anywhere": lambda data, rng: data[: rng.randrange(len(data) + 1)],
    **{f"a flipped bit {n}": _flip for n in range(6)},
    "a hundred flipped bits": lambda data, rng: [data := _flip(data, rng) for _ in range(100)][-1],
    "random bytes": lambda data, rng: rng.randbytes(len(data) + 1),
    "zeros": lambda data, rng: bytes(len(data)),
    "a NUL within": _insert(b"\0"),
    "0xff within": _insert(b"\xff"),
    "a surrogate within": _insert(b"\xed\xa0\x80"),
    "an escape within": _insert(b"\x1b[31m\x9b\x07"),
    "brackets within": _insert(b"[" * 5000),
    "200,000 brackets": lambda data, rng: b"[" * 200_000,
    "200,000 objects": lambda data, rng: b'{"a":' * 200_000,
    "twice": lambda data, rng: data + data,
    "more after its end": lambda data, rng: data + b"\nmore\n",
    "UTF-16": lambda data, rng: data.decode("latin-1").encode("utf-16"),
    "a byte order mark": lambda data, rng: b"\xef\xbb\xbf" + data,
    "one long line": lambda data, rng: b"x" * 2_000_000,
    "null": lambda data, rng: b"null",
    "a number": lambda data, rng: b"5",
    "a number of 5,000 digits": lambda data, rng: b"9" * 5000,
    "NaN": lambda data, rng: b"NaN",
    "a list": lambda data, rng: b"[]",
    "an object": lambda data, rng: b"{}",
    "a string": lambda data, rng: b'"x"',
    "a text": lambda data, rng: b"hello\n",
    "a length of 2^63": lambda data, rng: (2**63).to_bytes(8, "little") + data[8:],
    "a length of 2^64 - 1": lambda data, rng: b"\xff" * 8 + data[8:],
    "a length too short": _header(lambda header: max(0, len(header) - 1).to_bytes(8, "little")),
}
# Values of a key of JSON and TOML that no key expects all of.
WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, 1e308, 2**31, 2**63, 2**64, 10**30, float("nan"), float("inf"), "", "x", "\x00",
    "\x1b[31m", "[bold]", "\u202e", "../../etc/passwd", "x" * 10_000, [], [[]], ["x"], [None], {}, {"a": 1},
)  # fmt: skip


def _keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value; of long lists the first and last entry."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, (key, below) in enumerate(inner):
        if at < 25:
            yield from _keys(below, (*path, key))


def _set(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    out = dict(value) if isinstance(value, dict) else list(value)
    out[path[0]] = _set(out[path[0]], path[1:], new)
    return out


def _delete(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return {}
    out = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del out[path[0]]
    else:
        out[path[0]] = _delete(out[path[0]], path[1:])
    return out


def _json(data: bytes, new: Any, rng: random.Random) -> bytes:
    """JSON with a key set to `new`, of a file, of one of its lines, or of a tensor file's header."""
    if data[8:9] == b"{" and data[:1] != b"{":
        size = int.from_bytes(data[:8], "little")
        header = _json(data[8 : 8 + size], new, rng)
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    try:
        value, rest = json.loads(data), b""
    except ValueError:
        first, _, rest = data.partition(b"\n")
        value = json.loads(first)
    path = rng.choice([*_keys(value)][1:] or [()])
    value = _delete(value, path) if new is _json else _set(value, path, new)
    return json.dumps(value).encode() + (b"\n" + rest if rest else b"")


def _toml(data: bytes, new: Any, rng: random.Random) -> bytes:
    lines = data.decode().splitlines()
    places = [at for at, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    at = rng.choice(places)
    text = "true" if new is True else "1979-05-27" if new is None else "{a = 1}" if new == {"a": 1} else None
    text = text or ("[[1]]" if new == [None] else json.dumps("x" if new is _json else new))
    text = {"NaN": "nan", "Infinity": "inf"}.get(text, text)
    lines[at] = "" if new is _json else f"{lines[at].split(' = ')[0]} = {text}"
    return "\n".join(lines).encode() + b"\n"


def of(path: Path, seed: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """The damages of one file, by name; the random ones are those of the seed.

    A file that a manifest names is damaged with and without its hash there.
    """
    within = path.name != MANIFEST and any((folder / MANIFEST).is_file() for folder in path.parents)
    for name, apply in _content(path, seed):
        yield name, apply
        if within:
            yield f"{name}, with its hash", sealed(apply)
    for name in SPECIAL:
        yield f"is {name}", lambda target, name=name: _special(target, name)  # type: ignore[misc]
    yield "is missing", lambda target: target.unlink()
    yield "grows to 3 GB", lambda target: os.truncate(target, 3 << 30)


def _content(path: Path, seed: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    data = path.read_bytes()

    def bytewise(change: Change, key: str) -> Callable[[Path], None]:
        def apply(target: Path) -> None:
            target.write_bytes(change(target.read_bytes(), random.Random(f"{seed} {key}")))

        return apply

    for name, change in BYTES.items():
        yield name, bytewise(change, name)
    structured = _toml if path.suffix == ".toml" else _json
    try:
        structured(data, 0, random.Random(0))
        for new in (*WRONG, _json):
            name = "a key removed" if new is _json else f"a value {ascii(new)[:30]}"
            yield name, bytewise(lambda data, rng, new=new: structured(data, new, rng), name)  # type: ignore[misc]
    except (ValueError, IndexError):
        pass  # neither


def sealed(apply: Callable[[Path], None]) -> Callable[[Path], None]:
    """The damage, after which the folder's manifest is made to agree with the file, as its author could do."""

    def both(target: Path) -> None:
        apply(target)
        folder = next(folder for folder in target.parents if (folder / MANIFEST).is_file())
        manifest = json.loads((folder / MANIFEST).read_text())
        data = target.read_bytes()
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"][target.relative_to(folder).as_posix()] = entry
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return both


def _special(target: Path, name: str) -> None:
    target.unlink()
    place = target.with_name("special")
    place.mkdir()
    add_special(place, name)
    if name == "loop":
        target.symlink_to(target.name)
    else:
        (place / name).rename(target)
    shutil.rmtree(place)
