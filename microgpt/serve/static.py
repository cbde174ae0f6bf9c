"""The files of the page, held in memory: a request names one of a table, so that no path leaves the folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from microgpt import files
from microgpt.serve.errors import ApiError
from microgpt.serve.routes import Call, Route

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "cache-control": "no-cache", "referrer-policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent."""

    data: bytes
    media: str
    tag: str  # the ETag, which a browser sends back to ask whether the file has changed


def table(folder: Path) -> dict[str, File]:
    """The files of a folder and its folders by their path, "play/index.js", but all style sheets as one, "all.css":
    the page is painted when they are there, and each would be a request."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in TYPES and path.is_file()]
    read = {path.relative_to(folder).as_posix(): files.read_bytes(path, files.SMALL) for path in paths}
    sheets = sorted((name for name in read if name.endswith(".css")), key=lambda name: name.count("/"))
    read["all.css"] = b"\n".join(read.pop(name) for name in sheets)
    return {name: _file(name, data) for name, data in read.items()}


def _file(name: str, data: bytes) -> File:
    return File(data, TYPES[Path(name).suffix], f'"{hashlib.sha256(data).hexdigest()[:20]}"')


FILES = table(FOLDER)


async def index(call: Call) -> Response:
    """The page."""
    return _send(call, FILES["index.html"])


async def file(call: Call) -> Response:
    """One of its files. Raises ApiError for a name that is not in the table."""
    name = call.request.path_params["file"]
    if name not in FILES:
        raise ApiError(404, "the page has no such file")
    return _send(call, FILES[name])


def _send(call: Call, found: File) -> Response:
    headers = HEADERS | {"etag": found.tag}
    if found.tag in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.data, headers=headers, media_type=found.media)


UNCHANGED = {304: "the browser has it"}
ROUTES = [
    Route("GET", "/", index, "The page.", media="text/html", statuses=UNCHANGED),
    Route(
        "GET",
        "/page/{file:path}",
        file,
        "A file of the page.",
        media="*/*",
        statuses=UNCHANGED | {404: "the page has no such file"},
    ),
]
