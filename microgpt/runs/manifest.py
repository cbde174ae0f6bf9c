"""MANIFEST.json: the size and SHA-256 of every file of a folder, checked before a file is parsed or given memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from microgpt import files
from microgpt.errors import CheckpointError

FORMAT = 1
MANIFEST = "MANIFEST.json"

Entries: TypeAlias = dict[str, dict[str, Any]]  # size and sha256 by the file's name within the folder


def seal(contents: Mapping[str, files.Content], step: int) -> dict[str, files.Content]:
    """The files of a folder, followed by their manifest."""
    entries = {name: _entry(content) for name, content in contents.items()}
    return {**contents, MANIFEST: files.to_json({"format": FORMAT, "step": step, "files": entries})}


def _entry(content: files.Content) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for piece in [content] if isinstance(content, bytes) else content:
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def read(folder: Path, step: int | None = None) -> tuple[int, Entries]:
    """The step and the entries of a folder's manifest. `step` is the one that the folder's name states, if any.

    Raises CheckpointError.
    """
    where = folder / MANIFEST
    manifest = files.read_json(where)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{where}: not a manifest")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{where}: format {manifest.get('format')!r}; this version reads format {FORMAT}")
    found = manifest.get("step")
    if type(found) is not int or found < 0:
        raise CheckpointError(f"{where}: its step {found!r} is not a number of steps")
    if step is not None and found != step:
        raise CheckpointError(f"{where}: its step {found!r} is not the folder's")
    for name, entry in manifest["files"].items():
        if not (
            isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
        ):
            raise CheckpointError(f"{where}: no size and sha256 for {name!r}")
        if "\0" in name:
            raise CheckpointError(f"{where}: {name!r} is no name of a file")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{where}: {name!r} lies outside the folder")
    return found, dict(manifest["files"])


def read_file(folder: Path, name: str, entries: Entries | None, limit: int = files.SMALL) -> bytes:
    """The bytes of a file, at most `limit`, equal to its manifest entry where there is one. Raises CheckpointError."""
    where = folder / name
    size = plain_size(where)
    if entries is not None:
        if name not in entries:
            raise CheckpointError(f"{where}: not in the manifest", "E_MANIFEST")
        if size != entries[name]["size"]:
            raise CheckpointError(
                f"{where}: {size} bytes, the manifest says {entries[name]['size']}; the file is damaged", "E_HASH"
            )
    with files.readable(where):
        data = files.read_bytes(where, limit)
    if entries is not None and hashlib.sha256(data).hexdigest() != entries[name]["sha256"]:
        raise CheckpointError(f"{where}: its SHA-256 is not the manifest's; the file is damaged", "E_HASH")
    return data


def plain_size(where: Path) -> int:
    """The size of a regular file; reading a pipe or device might never end. Raises CheckpointError."""
    with files.readable(where):
        return files.plain_size(where)


def read_to_copy(folder: Path, name: str, entries: Entries | None) -> bytes:
    """`read_file` for a file that is copied as it is. Raises CheckpointError, also for a link out of the folder:
    a file of the system must not come into a model."""
    where = folder / name
    if not where.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{where}: a link out of the folder; copy the folder with its links resolved (cp -rL)")
    return read_file(folder, name, entries)
