"""URL → bytes: each hop through the gate, with limits on size, time and the number of redirects."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, NamedTuple

import httpcore2

from microgpt.data.scrape.addresses import Connector, Gate, Target, TooManyBytes, follow

AGENT = "microgpt"  # the product token that robots.txt addresses; a user agent begins with it
MAX_HOPS = 5  # redirects, as in RFC 9309 for robots.txt
MAX_RATIO = 200  # bytes out of a compressed byte; prose gives 3 to 10
MEANT = 1 << 20  # bytes below which any ratio is harmless
PIECE = 1 << 16
TRIES = 3
LONGEST_WAIT = 60.0  # seconds; a server that asks for a longer wait is not asked again
MAX_HEAD = 1 << 18  # bytes of all headers, those of interim responses among them
CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w.:+-]{1,40})", re.I | re.A)


class PageError(Exception):
    """A page that could not be fetched; the text is the reason. `status` is the server's status code, else 0."""

    def __init__(self, reason: str, status: int = 0, wait: float | None = None, retry: bool = False) -> None:
        super().__init__(reason)
        self.status, self.wait, self.retry = status, wait, retry


class Limits(NamedTuple):
    """The limits of a page."""

    max_bytes: int = 5_000_000  # after decompression
    seconds: float = 30.0  # from the connection to the last byte, per hop


class Reply(NamedTuple):
    """A page's bytes, and their type as its server declares it."""

    target: Target  # where it was found, after redirects
    body: bytes
    content_type: str  # lower case, without parameters; may be empty
    charset: str | None


class Clock:
    """The system's time; tests bring a clock that does not wait."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Pace:
    """Spaces the requests to each host."""

    def __init__(self, clock: Clock, seconds: float = 1.0) -> None:
        self.clock, self.seconds = clock, seconds
        self.free: dict[str, float] = {}

    def wait(self, host: str, seconds: float = 0.0) -> None:
        """Sleep until the host may be asked again; `seconds` is the host's own delay, where it is longer."""
        now = self.clock.now()
        begin = max(now, self.free.get(host, now))
        if begin > now:
            self.clock.sleep(begin - now)
        self.free[host] = begin + max(seconds, self.seconds)


class Fetcher:
    """Fetches pages as `user_agent`. `network` opens connections and `clock` keeps time; tests bring their own."""

    def __init__(
        self,
        gate: Gate,
        limits: Limits | None = None,
        clock: Clock | None = None,
        network: Any = None,
        user_agent: str = AGENT,
    ) -> None:
        self.gate, self.limits, self.network, self.user_agent = gate, limits or Limits(), network, user_agent
        self.clock = clock or Clock()
        self.pace = Pace(self.clock)
        self.requests: list[str] = []  # every request that was made, in order

    @cached_property
    def _tls(self) -> Any:
        import ssl

        return ssl.create_default_context()

    def fetch(self, target: Target, allowed: Callable[[Target], float], max_bytes: int = 0) -> Reply:
        """Fetch a page with redirects. `allowed` returns the seconds between requests to a host, or raises.

        Raises Refused, PageError.
        """
        for hop in range(MAX_HOPS + 1):
            seconds = allowed(target)
            found = self._retried(target, seconds, max_bytes or self.limits.max_bytes)
            if isinstance(found, Reply):
                return found
            if hop < MAX_HOPS:
                target = follow(target.url, found)
        raise PageError(f"more than {MAX_HOPS} redirects", 310)

    def _retried(self, target: Target, seconds: float, max_bytes: int) -> Reply | str:
        for attempt in range(TRIES):
            self.pace.wait(target.host, seconds)
            try:
                return self._once(target, max_bytes)
            except PageError as error:
                if not error.retry or attempt + 1 == TRIES:
                    raise
                wait = 2.0**attempt if error.wait is None else error.wait
                if wait > LONGEST_WAIT:
                    raise PageError(f"{error}; the server asks for {wait:.0f} s between tries", error.status) from None
                self.clock.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, target: Target, max_bytes: int) -> Reply | str:
        """A reply, or the target of a redirect. Raises Refused, PageError."""
        self.gate.check(target.host, target.port)
        seconds = self.limits.seconds
        connector = Connector(self.gate, time.monotonic() + seconds, backend=self.network, max_bytes=MAX_HEAD)
        headers: dict[bytes | str, bytes | str] = {
            "Host": target.origin.partition("://")[2],
            "User-Agent": self.user_agent,
            "Accept": "text/html, application/xhtml+xml, text/plain;q=0.9",
            "Accept-Encoding": "gzip",
            "Connection": "close",
        }
        waits = dict.fromkeys(("connect", "read", "write", "pool"), min(seconds, 15.0))
        try:
            self.requests.append(target.url)
            with (
                httpcore2.ConnectionPool(
                    ssl_context=self._tls if target.scheme == "https" else None, network_backend=connector
                ) as pool,
                pool.stream("GET", _as_is(target), headers=headers, extensions={"timeout": waits}) as response,
            ):
                connector.max_bytes = None  # the body is counted where it is read
                return self._read(target, response, max_bytes)
        except TooManyBytes:
            raise PageError(f"more than {MAX_HEAD:,} bytes of headers") from None
        except httpcore2.TimeoutException:
            raise PageError(f"no complete answer within {seconds:.0f} s", retry=True) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise PageError(f"the connection failed ({str(error) or type(error).__name__})", retry=True) from None

    def _read(self, target: Target, response: Any, max_bytes: int) -> Reply | str:
        headers: dict[str, list[str]] = {}
        for key, value in response.headers:
            headers.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        status, place = response.status, _first(headers, "location")
        if status in (301, 302, 303, 307, 308) and place:
            return place
        if status != 200:
            retry = status == 429 or status >= 500
            raise PageError(f"the server answers {status}", status, _wait(_first(headers, "retry-after")), retry)
        values = headers.get("content-encoding", [])
        encodings = [word.strip().lower() for value in values for word in value.split(",")]
        encodings = [word for word in encodings if word not in ("", "identity")]
        if encodings not in ([], ["gzip"], ["x-gzip"]):
            raise PageError(f"encoded as {', '.join(encodings)[:100]}; only gzip was asked for, once")
        pieces = response.iter_stream()
        data = bytearray()
        for piece in _unzipped(pieces, max_bytes) if encodings else pieces:
            data += piece
            if len(data) > max_bytes:
                raise PageError(f"more than {max_bytes:,} bytes (--max-bytes)")
        content_type = _first(headers, "content-type")
        charset = CHARSET.search(content_type)
        kind = content_type.partition(";")[0].strip().lower()
        return Reply(target, bytes(data), kind[:100], charset[1].lower() if charset else None)


def _first(headers: dict[str, list[str]], name: str) -> str:
    """The first value of a header, or an empty text."""
    return headers.get(name, [""])[0]


def _as_is(target: Target) -> httpcore2.URL:
    """The URL in pieces, so that no second parser reads it."""
    return httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)


def _unzipped(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """Decompress one layer of gzip in bounded pieces. Raises PageError for a bomb or damaged data."""
    engine = zlib.decompressobj(wbits=31)
    n_in = n_out = 0
    for piece in pieces:
        n_in += len(piece)
        while piece and not engine.eof:
            try:
                out = engine.decompress(piece, PIECE)
            except zlib.error:
                raise PageError("damaged gzip data") from None
            piece = engine.unconsumed_tail
            n_out += len(out)
            if n_out > MEANT and n_out > MAX_RATIO * (n_in - len(piece)):
                raise PageError(f"a decompression bomb: more than {MAX_RATIO} bytes per compressed byte")
            yield out
            if n_out > max_bytes:
                return
        if engine.eof:
            return  # nothing after the end is read, however much there is
    if not engine.eof:
        raise PageError("the gzip data ends early", retry=True)


def _wait(text: str) -> float | None:
    """The seconds of a Retry-After header, which holds seconds or a date."""
    if not text:
        return None
    try:
        wait = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
        return max(0.0, wait)
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
