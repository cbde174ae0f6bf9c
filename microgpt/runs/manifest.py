"""MANIFEST.json: the size and SHA-256 of every file of a folder, checked before a file is parsed or given memory."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any, TypeAlias

from microgpt import files
from microgpt.errors import CheckpointError

FORMAT = 1
MANIFEST = "MANIFEST.json"

Entries: TypeAlias = dict[str, dict[str, Any]]  # size and sha256 by the file's name within the folder


def seal(contents: dict[str, bytes], step: int) -> dict[str, bytes]:
    """The files of a folder, followed by their manifest."""
    entries = {name: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in contents.items()}
    return contents | {MANIFEST: files.to_json({"format": FORMAT, "step": step, "files": entries})}


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
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{where}: {name!r} lies outside the folder")
    return found, dict(manifest["files"])


def read_file(folder: Path, name: str, entries: Entries | None) -> bytes:
    """The bytes of a file, equal to its manifest entry where there is a manifest. Raises CheckpointError."""
    where = folder / name
    size = plain_size(where)
    if entries is not None:
        if name not in entries:
            raise CheckpointError(f"{where}: not in the manifest", "E_MANIFEST")
        if size != entries[name]["size"]:
            raise CheckpointError(
                f"{where}: {size} bytes, the manifest says {entries[name]['size']}; the file is damaged", "E_HASH"
            )
    try:
        data = where.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error
    if entries is not None and hashlib.sha256(data).hexdigest() != entries[name]["sha256"]:
        raise CheckpointError(f"{where}: its SHA-256 is not the manifest's; the file is damaged", "E_HASH")
    return data


def plain_size(where: Path) -> int:
    """The size of a regular file; reading a pipe or device might never end. Raises CheckpointError."""
    try:
        found = where.stat()
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{where}: not a plain file")
    return found.st_size
