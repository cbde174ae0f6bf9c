"""The gate: some hundreds of ways to name what must not be reached, and not one connection made."""

from __future__ import annotations

from typing import Any

import httpcore2
import pytest

from microgpt.data.scrape.addresses import Connector, Gate, Refused, closed, parse
from microgpt.data.scrape.fetch import Fetcher, PageError
from tests.data.scrape.clock import NoWait

# Private, special and transitional addresses, each in its plain spelling.
V4 = (
    "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.254 100.64.0.1 100.127.255.254 127.0.0.1 127.0.0.2 127.255.255.254 "
    "169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.254 192.0.0.1 192.0.0.170 192.0.2.1 192.31.196.1 "
    "192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.254 192.175.48.1 198.18.0.1 198.19.255.254 198.51.100.1 "
    "203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255"
).split()
V6 = (
    "::1 :: ::2 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 "
    "64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::7f00:1 100::1 2001::1 2001:0:7f00:1::1 "
    "2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:808:808::1 "
    "2620:4f:8000::1 3fff::1 4000::1 5f00::1 fc00::1 fd12:3456::1 fe80::1 fec0::1 ff02::1 ff0e::1 "
    "2a00::5efe:7f00:1 2a00::200:5efe:a9fe:a9fe fe80::5efe:10.0.0.1"
).split()
OPEN = "8.8.8.8 1.1.1.1 100.63.255.255 172.32.0.1 192.0.1.1 2606:4700:4700::1111 2a00:1450::1".split()


def spellings(address: str) -> list[str]:
    """An IPv4 address as programs read it, or some of them."""
    a, b, c, d = map(int, address.split("."))
    whole = (a << 24) + (b << 16) + (c << 8) + d
    wide = address.translate({ord("0") + n: ord("０") + n for n in range(10)})
    return [
        address,
        f"{address}.",
        str(whole),
        hex(whole),
        f"0{whole:o}",
        f"{a}.{(b << 16) + (c << 8) + d}",
        f"{a}.{b}.{(c << 8) + d}",
        ".".join(f"0{part:o}" for part in (a, b, c, d)),
        ".".join(map(hex, (a, b, c, d))),
        f"{a:03}.{b:03}.{c:03}.{d:03}",
        wide,
        address.replace(".", "。"),
        f"[::ffff:{address}]",
        f"user:word@{address}",
        f"example.com@{address}",
        f"{address}\\@example.com",
        f"{address}%00.example.com",
        f"{address}\t",
    ]


TRICKS = [
    *(f"http://{spelling}/" for address in V4 for spelling in spellings(address)),
    *(f"{scheme}://[{address}]/" for address in V6 for scheme in ("http", "https")),
    *(f"http://[{address}%25eth0]/" for address in ("fe80::1", "::1")),
    *(f"http://93.184.215.14:{port}/" for port in (22, 25, 81, 3306, 6379, 8080, 8443, 11211, 65536, 99999)),
    "file:///etc/passwd FILE:///etc/passwd file://localhost/etc/passwd ftp://example.com/ gopher://127.0.0.1:70/ "
    "data:text/html,x javascript:alert(1) ws://example.com/ //example.com/ /etc/passwd example.com http: http:// "
    "http:/// http:///etc http:127.0.0.1 http:/127.0.0.1/ http://# http://? http://[ http://[] http://[::1 http://] "
    "http://-a.com/ http://a-.com/ http://a..com/ http://.com/ http://a.com:/x: http://a.com:x/ http://a.com:-1/ "
    "httpſ://example.com/ http://exa%6dple.com/ http://a.com:80:80/ http://a\\b/ http://0x/ http://1.2.3.4.5/ "
    "http://256.1.1.1/ http://1.2.3/ http://٣.٣.٣.٣/",
]
TRICKS = [*TRICKS[:-1], *TRICKS[-1].split()]
TRICKS += [
    "http://a.com/\r\nHost: b",
    "http://a.com /",
    " http://a.com/",
    "http://a.com/\0",
    "http://a.com/" + "a" * 3000,
]
TRICKS += ["http://" + "a" * 64 + ".com/", "http://" + "a." * 200 + "com/"]


class Recorder(httpcore2.NetworkBackend):
    """A network that notes who is called, and answers what it was given."""

    def __init__(self, answers: dict[str, bytes] | None = None) -> None:
        self.called: list[tuple[str, int]] = []
        self.answers = answers or {}

    def connect_tcp(self, host: str, port: int, timeout: Any = None, *rest: Any, **more: Any) -> Any:
        self.called.append((host, port))
        if host not in self.answers:
            raise httpcore2.ConnectError("nobody there")
        return httpcore2.MockStream([self.answers[host]])


def get(url: str, gate: Gate, network: Recorder) -> bytes:
    fetcher = Fetcher(gate, clock=NoWait(), network=network, user_agent="microgpt/1.2 (why)")
    return fetcher.fetch(parse(url), lambda target: 0.0).body


def test_the_table_is_long() -> None:
    assert len(set(TRICKS)) >= 600


def resolver(host: str, port: int) -> list[str]:
    raise AssertionError(f"asked for the addresses of {host}")


def reached(url: str, gate: Gate, network: Recorder) -> bool:
    try:
        get(url, gate, network)
    except (Refused, PageError):
        return False
    return True


def test_no_spelling_reaches_a_private_address() -> None:
    """Given by the user: refused before a name is resolved or a connection made."""
    network = Recorder()
    assert [url for url in TRICKS if reached(url, Gate(resolve=resolver), network)] == []
    assert not network.called


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode("utf-8", "replace")


HOPS = [*(f"http://{a}/" for a in V4), *(f"http://[{a}]/" for a in V6), *TRICKS[-60:-8]]


def test_no_redirect_reaches_a_private_address() -> None:
    gate = Gate(resolve=lambda host, port: ["93.184.215.14"])
    for url in HOPS:
        network = Recorder({"93.184.215.14": redirect(url)})
        assert not reached("http://example.com/", gate, network), url
        assert {host for host, _ in network.called} == {"93.184.215.14"}, url


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("address", [*V4, *V6])
def test_no_name_reaches_a_private_address(address: str, place: int) -> None:
    """Not even if only one of several addresses of the name is private."""
    found = ["93.184.215.14", "1.1.1.1"]
    found.insert(place, address)
    network = Recorder()
    with pytest.raises(Refused, match="private or special"):
        get("http://innocent.example/", Gate(resolve=lambda host, port: found), network)
    assert not network.called


def test_a_name_that_changes_its_address_is_checked_each_time_and_resolved_once() -> None:
    """DNS rebinding: the first answer is public, the second is not."""
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    gate = Gate(resolve=lambda host, port: next(answers))
    network = Recorder({"93.184.215.14": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"})
    assert get("http://flip.example/", gate, network) == b"hi"
    with pytest.raises(Refused):
        get("http://flip.example/", gate, network)
    assert network.called == [("93.184.215.14", 80)]


@pytest.mark.parametrize("address", OPEN)
def test_public_addresses_are_open(address: str) -> None:
    assert not closed(address)


@pytest.mark.parametrize("address", [*V4, *V6, "fe80::1%eth0", "", "host"])
def test_closed(address: str) -> None:
    assert closed(address)


def test_the_connection_goes_to_the_checked_address_and_the_name_stays() -> None:
    sent: list[bytes] = []

    class Listening(Recorder):
        def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
            stream = super().connect_tcp(host, port)
            stream.write = lambda buffer, timeout=None: sent.append(buffer)
            return stream

    network = Listening({"93.184.215.14": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"})
    get("http://Example.COM./a/../b?c=d e".replace(" ", "+"), Gate(resolve=lambda h, p: ["93.184.215.14"]), network)
    asked = b"".join(sent)
    assert asked.startswith(b"GET /b?c=d+e HTTP/1.1\r\n")
    assert b"Host: example.com\r\n" in asked
    assert b"User-Agent: microgpt/1.2 (why)\r\n" in asked
    assert b"uthorization" not in asked
    assert b"ookie" not in asked
    assert network.called == [("93.184.215.14", 80)]


def test_tls_asks_for_the_name_not_the_address() -> None:
    names: list[str | None] = []

    class Tls(Recorder):
        def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
            stream = super().connect_tcp(host, port)

            def start(context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
                assert context.check_hostname
                names.append(server_hostname)
                return stream

            stream.start_tls = start
            return stream

    network = Tls({"93.184.215.14": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"})
    assert get("https://example.com/", Gate(resolve=lambda h, p: ["93.184.215.14"]), network) == b"hi"
    assert names == ["example.com"]
    assert network.called == [("93.184.215.14", 443)]


def test_one_named_host_is_opened_and_no_other() -> None:
    gate = Gate(["wiki.intranet:8000", "[::1]:81", "10.0.0.7"], resolve=lambda host, port: ["10.1.2.3"])
    assert gate.addresses("wiki.intranet", 8000) == ["10.1.2.3"]
    gate.check("::1", 81)
    gate.check("10.0.0.7", 80)
    for host, port in (("wiki.intranet", 80), ("wiki.intranet", 8001), ("other.intranet", 80), ("10.0.0.7", 22)):
        with pytest.raises(Refused):
            gate.addresses(host, port)
    for bad in ("", "a:b", "a b", ":80", "http://a/"):
        with pytest.raises(Refused):
            Gate([bad])


def test_an_unopened_connector_has_no_unix_sockets() -> None:
    with pytest.raises(Refused):
        Connector(Gate(), 1.0).connect_unix_socket("/run/x")


def test_no_wait_is_longer_than_what_is_left() -> None:
    connector = Connector(Gate(), deadline=10.0, now=lambda: 8.0)
    assert (connector.left(None), connector.left(15.0), connector.left(1.0)) == (2.0, 2.0, 1.0)
    connector.now = lambda: 10.0
    with pytest.raises(httpcore2.ReadTimeout):
        connector.left(1.0)


def test_names_in_other_scripts() -> None:
    assert parse("http://bücher.example/straße?ä=ö").url == "http://xn--bcher-kva.example/stra%C3%9Fe?%C3%A4=%C3%B6"
    assert parse("HTTPS://A.example:443/%2e%2e/x/./y/..").url == "https://a.example/x/"
