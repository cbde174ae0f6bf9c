"""The addresses that may be connected to: one gate for every connection of the scraper.

A page can name any host, redirect anywhere, and its DNS can change between a check and a connection. So a name
is resolved once, at the moment of connecting; every address it has is checked; and the connection goes to a
checked address, while the request and TLS keep the name.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin

import httpcore2
import idna

Resolve = Callable[[str, int], list[str]]

PORTS = {"http": 80, "https": 443}
MAX_URL = 2048  # characters

# Special-purpose blocks (IANA's IPv4 registry), multicast, and the reserved last sixteenth.
CLOSED_4 = [
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 "
        "198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    ).split()
]
# Of IPv6 only the global unicast block is open, so mapped, compatible, NAT64, site-local, unique local, link-local
# and multicast addresses are closed at once; in it, protocol assignments (Teredo), examples and 6to4 are closed.
OPEN_6 = ipaddress.IPv6Network("2000::/3")
CLOSED_6 = [
    ipaddress.IPv6Network(block) for block in "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split()
]
ISATAP = (0x00005EFE, 0x02005EFE)  # the middle of an address that carries an IPv4 address at its end (RFC 5214)

SHAPE = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\[\]:/?#@%\\]+)(?::(\d{1,5}))?((?:[/?][^#]*)?)(?:#.*)?", re.I | re.A)
HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


class TooManyBytes(Exception):
    """More bytes were received than are accepted."""


class Refused(Exception):
    """A URL or an address that the scraper refuses to connect to; the text is the reason."""


class Target(NamedTuple):
    """A URL, parsed once: the connection is made from these fields, never from the text again."""

    scheme: str
    host: str  # lower case, ASCII; IPv6 without brackets
    port: int
    path: str  # with the query

    @property
    def origin(self) -> str:
        """Scheme, host and port, as robots.txt and links have them."""
        return f"{self.scheme}://{bracketed(self.host)}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    @property
    def url(self) -> str:
        """The URL in its canonical spelling."""
        return self.origin + self.path


def bracketed(host: str) -> str:
    """A host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def parse(url: str) -> Target:
    """Parse a URL strictly: one that two programs could read in two ways is refused. Raises Refused."""
    if len(url) > MAX_URL:
        raise Refused(f"a URL of more than {MAX_URL:,} characters")
    if re.search(r"[\0-\x20\x7f-\xa0\\]|[^\0-\uffff]", url):
        raise Refused("spaces, control characters or backslashes in the URL")
    found = SHAPE.fullmatch(url)
    if not found:
        raise Refused("not a plain http:// or https:// URL (user names in URLs are refused, too)")
    scheme, port = found[1].lower(), int(found[3] or PORTS[found[1].lower()])
    path, mark, query = (quote(part, safe="/?%!$&'()*+,;=:@-._~") for part in (found[4] or "/").partition("?"))
    return Target(scheme, plain_host(found[2]), port, without_dots(path) + mark + query)


def follow(base: str, link: str) -> Target:
    """The target of a link or a redirect on `base`. Raises Refused."""
    try:
        return parse(urljoin(base, link.strip()))
    except ValueError as error:
        raise Refused(f"a link that is no URL ({error})") from None


def without_dots(path: str) -> str:
    """A path without . and .. in any spelling (RFC 3986, 5.2.4), since robots.txt applies to the resolved path."""
    out: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            del out[-1:]
        elif plain != ".":
            out.append(segment)
    return "/" + "/".join(out) + ("/" if plain in (".", "..") and out else "")


def plain_host(text: str) -> str:
    """A host in its canonical spelling: an address, or a name in ASCII. Raises Refused."""
    try:
        if text[0] == "[":
            return str(ipaddress.IPv6Address(text[1:-1]))
        host = idna.encode(text.removesuffix("."), uts46=True).decode() if not text.isascii() else text.lower()
        host = host.lower().removesuffix(".")
        if NUMBER.fullmatch(host.rpartition(".")[2]):  # C libraries read these as addresses: 127.1, 0x7f000001
            return str(ipaddress.IPv4Address(host))
    except (ValueError, UnicodeError):
        raise Refused(f"{text!r} is no host") from None
    if len(host) > 253 or not HOST.fullmatch(host):
        raise Refused(f"{text!r} is no host")
    return host


def closed(address: str) -> bool:
    """Whether an address is private or special, or not an address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return True  # also addresses with a zone, which only links have
    if isinstance(ip, ipaddress.IPv4Address):
        return any(ip in block for block in CLOSED_4)
    if ip.scope_id or ip not in OPEN_6 or any(ip in block for block in CLOSED_6):
        return True
    return (int(ip) >> 32) & 0xFFFFFFFF in ISATAP


def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Gate:
    """Decides on connections: ports 80 and 443 of public addresses, and hosts that the user opened by name.

    `private` holds the opened hosts, HOST or HOST:PORT, with an IPv6 address in brackets.
    Raises Refused for anything else.
    """

    def __init__(self, private: Iterable[str] = (), resolve: Resolve = system_resolve) -> None:
        self.resolve = resolve
        self.private: set[tuple[str, int]] = set()
        for text in private:
            found = re.fullmatch(r"(\[.+\]|[^:]+)(?::(\d{1,5}))?", text, re.A)
            if not found or int(found[2] or 0) > 65535:
                advice = "; an IPv6 address needs brackets, as in [::1]:8080" if text.count(":") > 1 else ""
                raise Refused(f"{text!r} is no HOST or HOST:PORT{advice}")
            ports = (int(found[2]),) if found[2] else PORTS.values()
            self.private |= {(plain_host(found[1]), port) for port in ports}

    def check(self, host: str, port: int) -> None:
        """Refuse a port, or a closed address in place of a name, before any request. Raises Refused."""
        if (host, port) in self.private:
            return
        if port not in PORTS.values():
            raise Refused(
                f"port {port}; only 80 and 443 are open (--allow-private {bracketed(host)}:{port} opens this one)"
            )
        if re.fullmatch(r"[\d.]+|.*:.*", host) and closed(host):
            opens = f"--allow-private {bracketed(host)} opens it"
            raise Refused(f"{host} is a private or special address ({opens})")

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to, all of them checked. Raises Refused, OSError."""
        self.check(host, port)
        found = self.resolve(host, port)
        if (host, port) not in self.private and any(map(closed, found)):
            where = next(address for address in found if closed(address))
            raise Refused(f"{host} is at the private or special address {where} (--allow-private {host} opens it)")
        return found


class Connector(httpcore2.NetworkBackend):
    """Connections through the gate, which end at a deadline however slowly the server sends.

    Reading raises TooManyBytes beyond `max_bytes`, where it is a number.
    """

    def __init__(
        self,
        gate: Gate,
        deadline: float,
        now: Callable[[], float] = time.monotonic,
        backend: Any = None,
        max_bytes: int | None = None,
    ) -> None:
        self.max_bytes, self.n_read = max_bytes, 0
        self.gate, self.deadline, self.now = gate, deadline, now
        self.backend = backend or httpcore2.SyncBackend()

    def left(self, timeout: float | None) -> float:
        """Seconds left to wait. Raises ReadTimeout after the deadline."""
        left = self.deadline - self.now()
        if left <= 0:
            raise httpcore2.ReadTimeout("the page took too long")
        return left if timeout is None else min(left, timeout)

    def count(self, size: int) -> None:
        """Count bytes that were read. Raises TooManyBytes."""
        self.n_read += size
        if self.max_bytes is not None and self.n_read > self.max_bytes:
            raise TooManyBytes

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any
    ) -> httpcore2.NetworkStream:
        try:
            addresses = self.gate.addresses(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} has no address ({error.strerror or error})") from None
        problem: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return Stream(self, self.backend.connect_tcp(address, port, self.left(timeout)))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise Refused("a socket of this machine")


class Stream(httpcore2.NetworkStream):
    """A connection whose every wait ends at the deadline."""

    def __init__(self, connector: Connector, inner: httpcore2.NetworkStream) -> None:
        self.connector, self.inner = connector, inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self.inner.read(max_bytes, self.connector.left(timeout))
        self.connector.count(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, self.connector.left(timeout))

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return Stream(self.connector, self.inner.start_tls(ssl_context, server_hostname, self.connector.left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)
