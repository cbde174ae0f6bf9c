"""HTTP below the application: what uvicorn lets through is refused here, and whoever is too slow is cut.

An application sees a request when its head has arrived, so deadlines for heads, bodies and readers, and limits of a
head, cannot be its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from microgpt import json_text
from microgpt.serve.errors import ApiError, dialect_of
from microgpt.serve.limits import LIMITS, most

HEAD_BYTES, HEAD_LINES, BODY_BYTES = most("head_bytes"), most("head_lines"), most("body_bytes")
HEAD_SECONDS, BODY_SECONDS = LIMITS["head_seconds"].most, LIMITS["body_seconds"].most
WRITE_SECONDS = LIMITS["write_seconds"].most
CONNECTION = "microgpt.connection"  # the key of a scope under which it has its protocol
LEFT = "the client left"
WRITE_BYTES = 1 << 14  # of an answer that wait for a client, beside what the system has of it, before it counts as slow
LINE_BYTES = 4  # of a header beside its name and value: colon, space, end of line


class Reading(enum.Enum):
    """The part of a request that a connection is reading."""

    NOTHING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class Protocol(HttpToolsProtocol):
    """A connection. `refused` is called with the status of a request that no route has seen."""

    def __init__(self, *args: Any, most_connections: int, refused: Callable[[int], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._most_connections, self._refused = most_connections, refused
        self._reading = Reading.NOTHING
        self._head_bytes = self._head_lines = self._body_bytes = 0
        self._timed = Reading.NOTHING  # the part that the timer is for
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._refusal: ApiError | None = None
        self._task: asyncio.Task[Any] | None = None  # that answers a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(WRITE_BYTES)
        if len(self.connections) > self._most_connections:
            self._refuse(ApiError(503, "too many connections; try again later", headers={"retry-after": "1"}))
        else:
            self._reading = Reading.HEAD
            self._set_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and the work for a request."""
        self._reading = Reading.NOTHING
        self._set_read_timer()
        self._stop_write_timer()
        super().connection_lost(exc)
        self._cancel()

    def data_received(self, data: bytes) -> None:
        """Parse, and look at what the parser found."""
        if self._refusal or self.transport.is_closing():
            return
        if self._reading is Reading.NOTHING:
            self._reading = Reading.HEAD
        if self._reading is Reading.HEAD:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._reading is Reading.HEAD and self._head_bytes > HEAD_BYTES and not self._refusal:
            self._refuse(_too_large())
        self._set_read_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, or that one of the methods below refuses."""
        self._refuse(self._refusal or ApiError(400, "this is not an HTTP/1.1 request"))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._stop_read_timer()
        self._reading = Reading.HEAD
        self._head_lines = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the head."""
        self._head_lines += 1
        if self._head_lines > HEAD_LINES:
            self._give_up(_too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has arrived: refuse what proxies and servers may read in different ways."""
        size = len(self.url) + sum(len(name) + len(value) + LINE_BYTES for name, value in self.headers)
        if size > HEAD_BYTES:
            self._give_up(_too_large())
        if error := self._ambiguity():
            self._give_up(ApiError(400, error))
        length = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        if length > BODY_BYTES:
            self._give_up(_body_too_large())
        self._head_bytes = 0
        self._reading = Reading.BODY
        super().on_headers_complete()

    def _ambiguity(self) -> str | None:
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            return "expected HTTP/1.1"
        names = [name for name, _ in self.headers]
        if names.count(b"host") != 1 and not (b"host" not in names and self.parser.get_http_version() == "1.0"):
            return "expected one Host"
        if names.count(b"content-length") > 1 or names.count(b"transfer-encoding") > 1:
            return "the length is given twice"
        if b"transfer-encoding" in names:
            if b"content-length" in names:
                return "both Content-Length and Transfer-Encoding are given"
            if self.parser.get_http_version() != "1.1":
                return "Transfer-Encoding belongs to HTTP/1.1"
            if dict(self.headers)[b"transfer-encoding"].strip().lower() != b"chunked":
                return "expected Transfer-Encoding: chunked"
        if not self.url.startswith(b"/") and self.url != b"*":
            return "expected a path that begins with /"
        return None

    def on_body(self, body: bytes) -> None:
        """A part of the body, counted."""
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES:
            self._give_up(_body_too_large())
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived."""
        self._reading = Reading.NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Close after an answer that did not wait for its request's end: the rest would be read as a request."""
        super().on_response_complete()
        if self._reading is Reading.BODY and not self.pipeline:
            self.transport.close()
        if self.transport.is_closing():
            self._linger()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._linger()

    def shutdown(self) -> None:
        """Close, if nothing is under way."""
        super().shutdown()
        if self.transport.is_closing():
            self._linger()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._linger()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_write_timer()

    # Work

    @contextlib.contextmanager
    def cancels(self) -> Iterator[None]:
        """The block is left when the client leaves; it belongs to the one request that is being answered."""
        task = self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError as error:
            if error.args != (LEFT,):
                raise  # the server is ending
        finally:
            if self._task is task:
                self._task = None

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel(LEFT)

    # Clocks

    def _set_read_timer(self) -> None:
        """Time the part of a request that is being read; most requests arrive whole and need no timer."""
        if self._reading is self._timed:
            return
        self._stop_read_timer()
        self._timed = self._reading
        if self._reading is not Reading.NOTHING:
            seconds = HEAD_SECONDS if self._reading is Reading.HEAD else BODY_SECONDS
            self._read_timer = self.loop.call_later(seconds, self._too_slow)

    def _stop_read_timer(self) -> None:
        self._timed = Reading.NOTHING
        if self._read_timer:
            self._read_timer.cancel()
            self._read_timer = None

    def _too_slow(self) -> None:
        part, self._timed, self._read_timer = self._reading, Reading.NOTHING, None
        if self.pipeline or (part is Reading.HEAD and self.cycle and not self.cycle.response_complete):
            self._set_read_timer()  # the next request waits for the answer to the one before
        else:
            self._refuse(ApiError(408, f"the request's {part.name.lower()} took too long to arrive"))

    def _linger(self) -> None:
        """Cut the connection if what is written is not read in time."""
        if not self._write_timer:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def _stop_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    # Refusals

    def _give_up(self, error: ApiError) -> None:
        """Refuse from within the parser, which ends by any exception."""
        self._refusal = error
        raise error

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close."""
        self._reading = Reading.NOTHING
        self._set_read_timer()
        self._refusal = error
        self._refused(error.status)
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its task ends
            self.cycle.message_event.set()
            self._cancel()
            if self.cycle.response_started:
                self.transport.abort()
                return
        body = json_text.dumps(dialect_of(getattr(self, "url", b"").decode("latin-1")).render(error)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [f"{name}: {value}\r\n" for name, value in (headers | error.headers).items()]
        head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{''.join(lines)}\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._linger()


def _too_large() -> ApiError:
    return ApiError(431, f"the request's head has more than {HEAD_BYTES} bytes or {HEAD_LINES} headers")


def _body_too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {BODY_BYTES} bytes")
