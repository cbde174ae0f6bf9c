"""Every byte that goes to disk, and every byte that is trusted when it comes back.

Nothing is written in place: a file or folder is made under a temporary name, flushed, renamed, and the parent
flushed, so that after a crash either the old or the new is there, whole. A flush that fails is never tried
again on the same file (Linux may have dropped the pages): the temporary file is thrown away. The module's `os`
is the one thing that a test replaces to make the disk full, slow or dead at any call.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

from microgpt import json_text
from microgpt.errors import CheckpointError, MachineError, MicrogptError, UsageError

TEMPORARY = ".microgpt-tmp-"  # a name that nobody else gives to what they would miss
SMALL = 2**22  # bytes of a file that a person or a program writes about a model: settings, manifest, state, template
Content: TypeAlias = bytes | Sequence[bytes | memoryview]  # of a file, whole or in pieces that nobody joins
LARGE = 2**26  # bytes of a file that holds a vocabulary
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV}


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that no other writer has, in any thread, process, container or machine."""
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(8)}")


@contextmanager
def disk(doing: str, path: Path, then: str = "run the command again") -> Iterator[None]:
    """Turn an OSError into one line that names the file, the reason and what to do; `then` follows on a full disk.

    Raises UsageError (E_EXISTS) for a name that is taken, MachineError (E_DISK) for everything else.
    """
    try:
        yield
    except FileExistsError as error:
        where = asked_for(f"{error.filename or path}")
        raise UsageError(f"{where}: exists already; name another file or folder with --out", "E_EXISTS") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        where = asked_for(f"{error.filename or path}")
        cached = any(Path(at).absolute().is_relative_to(cache_folder("").absolute()) for at in (where, path))
        flag = "MICROGPT_CACHE_DIR" if cached else "--out"
        raise MachineError(f"{where}: cannot {doing} ({reason}){_advice(error.errno, flag, then)}", "E_DISK") from error


def asked_for(name: str) -> str:
    """The name of the file that a temporary one would have become; any other name as it is."""
    return re.sub(rf"{re.escape(TEMPORARY)}(.*?)-[0-9a-f]{{16}}(?=[/\\]|$)", r"\1", name)


def _advice(number: int | None, flag: str, then: str) -> str:
    return {
        errno.ENOSPC: f"; free some space and {then}",
        errno.EDQUOT: f"; your quota is used up: free some space and {then}",
        errno.EACCES: f"; choose a folder that you may write to with {flag}",
        errno.EPERM: f"; choose a folder that you may write to with {flag}",
        errno.EROFS: f"; the file system is read-only: choose another folder with {flag}",
        errno.EMFILE: "; too many open files: raise the limit (ulimit -n)",
    }.get(number or 0, "")


def write_new(path: Path, data: Content) -> None:
    """Write and flush a file that nobody reads yet. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        _write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Flush a folder's entries, where the system can (Windows cannot open folders)."""
    if os.name != "nt":
        flush(path)


def write_atomic(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file so that after a crash the old or the new content is there, whole.

    With `replace=False` the file must not exist yet, not even at the end. Raises FileExistsError, OSError.
    """
    temporary = temporary_path(path)
    try:
        write_new(temporary, data)
        if replace:
            os.replace(temporary, path)
        else:
            publish(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    flush_folder(path.parent)


def publish(temporary: Path, final: Path) -> Path:
    """Give a file or folder its final name, which must be free: of two writers the second is refused.

    Unlike `replace` it takes no name from anybody, however late they came. Returns `final`.
    Raises FileExistsError, then `temporary` is still there; OSError.
    """
    if temporary.is_dir():
        _rename_folder(temporary, final)
    elif os.name == "nt":  # whose rename refuses a name that is taken
        os.rename(temporary, final)
    else:
        try:
            os.link(temporary, final)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))  # claims the name
            os.replace(temporary, final)
        else:
            discard(temporary)
    flush_folder(final.parent)
    return final


def _rename_folder(temporary: Path, final: Path) -> None:
    """Rename a folder; a name that is taken is a FileExistsError on every system."""
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        raise


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `final` at the end. Raises OSError; then nothing is left.

    Raises FileExistsError where `final` is a file or a folder that holds something by then.
    Files in it are to be written with `write_new`; sub-folders are flushed here.
    """
    temporary = temporary_path(final)
    os.mkdir(temporary)
    try:
        yield temporary
        for folder in (*(entry for entry in sorted(temporary.iterdir()) if entry.is_dir()), temporary):
            flush_folder(folder)
        _rename_folder(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(final.parent)


def write_folder(final: Path, contents: Mapping[str, Content]) -> None:
    """Write a new folder of files, whole or not at all. Raises OSError."""
    with new_folder(final) as temporary:
        for name in sorted({part for part, slash, _ in (name.rpartition("/") for name in contents) if slash}):
            os.mkdir(temporary / name)
        for name, data in contents.items():
            write_new(temporary / name, data)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash never leaves half of it under its own name. Raises OSError."""
    temporary = temporary_path(path)
    os.rename(path, temporary)
    flush_folder(path.parent)  # or the files could be gone before the name is
    shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path, name: str = "") -> None:
    """Remove what a crash left under temporary names, of one file or folder or of all."""
    for entry in folder.glob(f"{TEMPORARY}{name}-*" if name else f"{TEMPORARY}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            discard(entry)


def replace(path: Path, final: Path) -> Path:
    """Give a file its final name; returns that. Raises OSError."""
    os.replace(path, final)
    flush_folder(final.parent)
    return final


def append_text(path: Path, text: str) -> None:
    """Add lines to a log. Raises OSError."""
    append_bytes(path, text.encode())


def append_bytes(path: Path, data: bytes) -> None:
    """Add bytes to a file. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        _write(descriptor, data)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: Content) -> None:
    for piece in [data] if isinstance(data, bytes) else data:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]


@contextmanager
def log(path: Path, *, append: bool = False) -> Iterator[int]:
    """The descriptor of a file that a child process writes what it says to, emptied before. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC), 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def cut_torn_line(path: Path) -> None:
    """Remove a last line that a crash cut short from a log, whose lock the caller holds. Raises OSError."""
    with suppress(FileNotFoundError), open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16))
        if torn := len(file.read().rpartition(b"\n")[2]):
            os.truncate(path, size - torn)


def flush(path: Path) -> None:
    """Flush a folder, or a file that was appended to. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a file, if it is there and can be removed."""
    with suppress(OSError):
        os.unlink(path)


def plain_size(path: Path) -> int:
    """The size of a regular file: reading a pipe, socket or device might never end. Raises OSError."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a NUL character in its name", str(path).replace("\0", "\\0"))
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return found.st_size


def open_plain(path: Path) -> BufferedReader:
    """A regular file, opened for reading. Raises OSError."""
    plain_size(path)
    return open(path, "rb")


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file, whose size is looked at first. Raises OSError, also beyond `limit` bytes."""
    size = plain_size(path)
    if size <= limit:
        with open(path, "rb") as file:
            return file.read(size)
    raise OSError(errno.EFBIG, f"larger than {limit:,} bytes, which no such file is", str(path))


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal. Raises OSError."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def readable(name: Path | str, advice: str = "", kind: type[MicrogptError] = CheckpointError) -> Iterator[None]:
    """Turn the OSError of a file that cannot be read into one of this kind, with name, reason and advice."""
    try:
        yield
    except OSError as error:
        raise kind(f"{name}: cannot be read ({error.strerror}){advice}") from error


def read_json(path: Path, limit: int = SMALL) -> Any:
    """A JSON file, strictly: UTF-8, no duplicate keys, no NaN, not nested beyond reason, at most `limit` bytes.

    Raises CheckpointError with the reason.
    """
    with readable(path):
        return parse_json(read_bytes(path, limit), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """JSON bytes with the strictness of `read_json`. Raises CheckpointError."""
    try:
        return json_text.loads(data.decode("utf-8"))
    except RecursionError:
        raise CheckpointError(f"{where}: damaged JSON (nested too deeply)", "E_JSON") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: damaged JSON ({error})", "E_JSON") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises UsageError with the line of a mistake."""
    import tomllib

    try:
        with readable(path, "; name a TOML file", UsageError):
            return tomllib.loads(read_bytes(path, SMALL).decode("utf-8-sig"))
    except RecursionError:
        raise UsageError(f"{path}: not TOML: nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None


def to_json(value: Any, indent: int | None = 2) -> bytes:
    """The bytes of a JSON file or line, indented unless told otherwise, the same for the same value."""
    return (json_text.dumps(value, indent=indent) + "\n").encode()


def cache_folder(kind: str) -> Path:
    """A folder of the user's cache, which can be made again (MICROGPT_CACHE_DIR overrides the system's place)."""
    import platformdirs

    return Path(os.environ.get("MICROGPT_CACHE_DIR") or platformdirs.user_cache_dir("microgpt")) / kind


def require_writable(path: Path) -> None:
    """Raise OSError for a folder that nothing can be put into."""
    if not os.access(path, os.W_OK):
        raise PermissionError(13, os.strerror(13), str(path))


def make_folders(path: Path) -> None:
    """A folder and its parents, where missing, each flushed into the one above. Raises OSError."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with suppress(FileExistsError):  # another process was faster
        os.mkdir(path)
    flush_folder(path.parent)
