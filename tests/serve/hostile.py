"""Requests that no honest client sends, as bytes, each with the statuses that are right for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from microgpt.serve.limits import most

GENERATE, CHAT = "/microgpt/v1/generate", "/microgpt/v1/chat"
BODY, DEPTH = most("body_bytes"), most("json_depth")


class Case(NamedTuple):
    """A request, in which PORT stands for the server's port, and the statuses that may answer it."""

    name: str
    request: bytes
    statuses: set[int]


def request(
    path: str = GENERATE,
    body: bytes | str | object = b"{}",
    *,
    method: str = "POST",
    host: str | None = "127.0.0.1:PORT",
    content_type: str | None = "application/json",
    length: str | None = "",
    version: str = "HTTP/1.1",
    headers: str = "",
) -> bytes:
    """A request with one thing wrong. `length` "" is the true one."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode("utf-8", "surrogatepass")
    head = f"{method} {path} {version}\r\n"
    head += "" if host is None else f"Host: {host}\r\n"
    head += "" if content_type is None else f"Content-Type: {content_type}\r\n"
    head += "" if length is None else f"Content-Length: {length or len(body)}\r\n"
    return (head + headers + "\r\n").encode("latin-1") + body


def cases() -> Iterator[Case]:
    """All of them."""
    yield from json_cases()
    yield from field_cases()
    yield from media_cases()
    yield from stranger_cases()
    yield from framing_cases()
    yield from head_cases()
    yield from path_cases()


def json_cases() -> Iterator[Case]:
    """Text that is not strict JSON, in both routes."""
    bad = {
        "empty": "",
        "blank": "  \n",
        "NaN": '{"temperature": NaN}',
        "Infinity": '{"temperature": Infinity}',
        "-Infinity": '{"temperature": -Infinity}',
        "1e999": '{"temperature": 1e999}',
        "-1e999": '{"x": -1e999}',
        "lone surrogate": '{"x": "\\ud800"}',
        "lone low surrogate": '{"x": "a\\udc00b"}',
        "surrogate in a key": '{"\\ud800": 1}',
        "surrogate in a list": '{"x": [["\\udfff"]]}',
        "trailing text": "{} x",
        "two values": "{}{}",
        "trailing comma": '{"seed": 1,}',
        "single quotes": "{'seed': 1}",
        "comment": '{"seed": 1 /* one */}',
        "unquoted key": "{seed: 1}",
        "half": '{"seed": ',
        "control character": '{"x": "a\nb"}',
        "bad escape": '{"x": "\\x41"}',
        "half an escape": '{"x": "\\u12"}',
        "leading zero": '{"seed": 01}',
        "plus": '{"seed": +1}',
        "hex": '{"seed": 0x10}',
        "point": '{"temperature": .5}',
        "true in capitals": '{"seed": True}',
        "deep lists": "[" * 100_000,
        "deep closed lists": "[" * (DEPTH + 1) + "]" * (DEPTH + 1),
        "deep objects": '{"x":' * (DEPTH + 1) + "1" + "}" * (DEPTH + 1),
        "deep in a field": '{"x": ' + "[" * DEPTH + "]" * DEPTH + "}",
    }
    for name, text in bad.items():
        yield Case(f"json: {name}", request(body=text), {400})
    raw = {
        "latin-1": b'{"x": "\xe9"}',
        "utf-16": '{"seed": 1}'.encode("utf-16"),
        "byte order mark": b'\xef\xbb\xbf{"seed": 1}',
        "overlong utf-8": b'{"x": "\xc0\xaf"}',
        "encoded surrogate": b'{"x": "\xed\xa0\x80"}',
        "nul": b'{"seed": 1}\x00',
    }
    for name, data in raw.items():
        yield Case(f"json: {name}", request(body=data), {400})
    for name, text in {
        "duplicate": '{"seed": 1, "seed": 2}',
        "duplicate by escape": '{"seed": 1, "s\\u0065ed": 2}',
        "5,000 digits": '{"seed": ' + "9" * 5000 + "}",
        "a million digits": '{"seed": ' + "9" * 1_000_000 + "}",
        "2^64": '{"seed": 18446744073709551616}',
    }.items():
        yield Case(f"json: {name}", request(body=text), {422})
    for value in ("[]", "1", '"x"', "null", "true"):
        yield Case(f"json: {value} for an object", request(body=value), {422})
        yield Case(f"json: {value} for a chat", request(CHAT, value), {422})


def field_cases() -> Iterator[Case]:
    """Fields of the wrong type or value."""
    for field in ("seed", "num_samples", "max_tokens"):
        for value in (-1, 1.5, 1.0, True, "1", [], {}, [1], 2**64, -(2**63)):
            yield Case(f"{field}: {value!r}", request(body={field: value}), {422})
    for field in ("seed", "num_samples", "temperature"):
        yield Case(f"{field}: null", request(body={field: None}), {422})
    for value in (True, "0.5", [], {}):
        yield Case(f"temperature: {value!r}", request(body={"temperature": value}), {422})
    for field, value in (("temperature", -0.5), ("temperature", 1e300), ("num_samples", 0), ("max_tokens", 0)):
        yield Case(f"{field}: {value}", request(body={field: value}), {400})
    good = {"role": "user", "content": "hi"}
    for name, messages, status in (
        ("absent", ..., 422),
        ("null", None, 422),
        ("text", "hi", 422),
        ("object", good, 422),
        ("number in it", [1], 422),
        ("null in it", [None], 422),
        ("no role", [{"content": "hi"}], 422),
        ("no content", [{"role": "user"}], 422),
        ("null content", [{"role": "user", "content": None}], 422),
        ("parts", [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], 422),
        ("number as role", [{"role": 1, "content": "hi"}], 422),
        ("empty", [], 400),
        ("unknown role", [good, {"role": "bot", "content": "hi"}], 400),
        ("special token as role", [{"role": "end_turn", "content": "hi"}], 400),
        ("bos as role", [{"role": "bos", "content": "hi"}], 400),
        ("role in capitals", [{"role": "User", "content": "hi"}], 400),
        ("empty content", [{"role": "user", "content": ""}], 400),
        ("blank content", [{"role": "user", "content": " \n"}], 400),
        ("special token as text", [{"role": "user", "content": "<bos><end_turn>"}], 400),
        ("NUL as text", [{"role": "user", "content": "\0"}], 400),
        ("another script", [{"role": "user", "content": "\U0001f600"}], 400),
    ):
        yield Case(f"messages: {name}", request(CHAT, {} if messages is ... else {"messages": messages}), {status})
    twice = '{"messages": [{"role": "user", "role": "system", "content": "hi"}]}'
    yield Case("messages: role twice", request(CHAT, twice), {422})


def media_cases() -> Iterator[Case]:
    """Content types and encodings."""
    for media in (
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json-patch+json",
        "application",
        "json",
        "*/*",
        "application/xml",
        "application/octet-stream",
        "text/plain; application/json",
        "text/plain, application/json",
    ):
        yield Case(f"media: {media}", request(content_type=media), {415})
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
        yield Case(f"encoding: {encoding}", request(headers=f"Content-Encoding: {encoding}\r\n"), {415})


def stranger_cases() -> Iterator[Case]:
    """Hosts and origins, with each kind of request that a page can make."""
    for host in (
        "evil.example",
        "evil.example:PORT",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.2:PORT",
        "0.0.0.0:PORT",
        "[::]:PORT",
        "[::ffff:127.0.0.1]:PORT",
        "2130706433:PORT",
        "0x7f.1:PORT",
        "127.1",
        "localhost.",
        "local host",
        "",
        ":PORT",
        "127.0.0.1:PORT:PORT",
        "127.0.0.1:-1",
        "127.0.0.1:999999",
        "127.0.0.1/",
        "\xe9.example",
    ):
        for path, method in ((GENERATE, "POST"), ("/health", "GET"), ("/nowhere", "GET")):
            yield Case(f"host: {host!r} {path}", request(path, method=method, host=host), {400, 403})
    for origin in (
        "null",
        "http://evil.example",
        "https://127.0.0.1:PORT",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://127.0.0.1:PORT.evil.example",
        "http://127.0.0.1:PORT/",
        "http://localhost.evil.example:PORT",
        "HTTP://127.0.0.1:PORT",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1:PORT http://evil.example",
        "",
    ):
        for media in ("application/json", "text/plain"):
            head = f"Origin: {origin}\r\n"
            yield Case(f"origin: {origin!r} {media}", request(content_type=media, headers=head), {400, 403})
        asked = f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
        yield Case(f"preflight: {origin!r}", request(method="OPTIONS", headers=asked), {400, 403})
        yield Case(f"get: {origin!r}", request("/health", b"", method="GET", headers=head), {400, 403})
    two = "Origin: http://127.0.0.1:PORT\r\nOrigin: http://evil.example\r\n"
    yield Case("origin: two", request(headers=two), {400, 403})
    yield Case("preflight without origin", request(method="OPTIONS"), {405})


def framing_cases() -> Iterator[Case]:
    """Lengths that two programs may read in two ways."""
    chunked = "Transfer-Encoding: chunked\r\n"
    yield Case("both lengths", request(headers=chunked), {400})
    yield Case("both lengths, chunked body", request(body=b"2\r\n{}\r\n0\r\n\r\n", headers=chunked), {400})
    for value in (
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "xchunked",
        "chunked, identity",
        "identity",
        "chunked;q=1",
    ):
        head = f"Transfer-Encoding: {value}\r\n"
        yield Case(f"transfer-encoding: {value}", request(body=b"0\r\n\r\n", length=None, headers=head), {400})
    twice = request(body=b"0\r\n\r\n", length=None, headers=chunked * 2)
    yield Case("transfer-encoding twice", twice, {400})
    yield Case("transfer-encoding in HTTP/1.0", request(length=None, headers=chunked, version="HTTP/1.0"), {400})
    for value in ("-1", "+2", "2, 2", "2 2", "0x2", "2.0", "1e1", "two", "99999999999999999999999", "2\t3"):
        yield Case(f"content-length: {value}", request(length=value), {400, 413})
    yield Case("content-length twice", request(headers="Content-Length: 2\r\n"), {400})
    yield Case("content-length twice, differing", request(headers="Content-Length: 3\r\n"), {400})
    yield Case("space before the colon", request(headers="Content-Length : 3\r\n"), {400})
    for name, body in {
        "a chunk's size": b"zz\r\n{}\r\n0\r\n\r\n",
        "a negative chunk": b"-2\r\n{}\r\n0\r\n\r\n",
        "a chunk's end": b"2\r\n{}x\r\n0\r\n\r\n",
        "a huge chunk": b"fffffffffffffffffff\r\n{}",
        "a hexadecimal chunk": b"0x2\r\n{}\r\n0\r\n\r\n",
    }.items():
        yield Case(f"chunks: {name}", request(body=body, length=None, headers=chunked), {400, 413})
    yield Case("a byte more than 4 MiB", request(length=str(BODY + 1)), {413})
    yield Case("a terabyte", request(length=str(2**40)), {413})
    yield Case("a terabyte to nowhere", request("/nowhere", length=str(2**40)), {413})
    large = b"%x\r\n" % (BODY + 1) + b" " * (BODY + 1) + b"\r\n0\r\n\r\n"
    yield Case("4 MiB and a byte in one chunk", request(body=large, length=None, headers=chunked), {413})
    many = (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * (BODY // 0x4000) + b"1\r\n \r\n0\r\n\r\n"
    yield Case("4 MiB and a byte in many chunks", request(body=many, length=None, headers=chunked), {413})


def head_cases() -> Iterator[Case]:
    """Heads."""
    get = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"
    yield Case("two hosts", get + b"Host: 127.0.0.1:PORT\r\n\r\n", {400})
    yield Case("two hosts, the second strange", get + b"Host: evil.example\r\n\r\n", {400})
    yield Case("no host", b"GET /health HTTP/1.1\r\n\r\n", {400})
    yield Case("no host in HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n", {400, 403})
    yield Case("a head of 1 MB", get + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n", {431, 400})
    yield Case("a head of 1 MB in lines", get + b"X: 12345678\r\n" * 80_000 + b"\r\n", {431, 400})
    yield Case("30,000 lines", get + b"X:\r\n" * 30_000 + b"\r\n", {431, 400})
    yield Case("an endless line", get + b"x" * 200_000, {431, 400})
    yield Case(
        "a path of 100 kB", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", {431, 414, 400}
    )
    for name, data in {
        "folded line": get + b"X: 1\r\n 2\r\n\r\n",
        "line without a colon": get + b"nonsense\r\n\r\n",
        "NUL in a value": get + b"X: a\0b\r\n\r\n",
        "NUL in a name": get + b"X\0: a\r\n\r\n",
        "bare carriage return": get + b"X: a\rY: b\r\n\r\n",
        "no version": b"GET /health\r\n\r\n",
        "HTTP/0.9": b"GET /health HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n",
        "HTTP/2.0": b"GET /health HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
        "HTTP/9.9": b"GET /health HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        "text": b"hello\r\n\r\n",
        "bytes": bytes(range(256)),
        "lower-case method": b"get /health HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        "no path": b"GET  HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        "spaces in the path": b"GET /a b HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        "another site's path": b"GET http://evil.example/health HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    }.items():
        yield Case(f"head: {name}", data, {400, 403, 405})


def path_cases() -> Iterator[Case]:
    """Paths and methods."""
    for path in (
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/./health",
        "/health/",
        "/health%00",
        "/HEALTH",
        "/static/../../pyproject.toml",
        "/\\..\\..\\windows",
        "/microgpt/v1/generate/",
        "/microgpt/v1",
        "/microgpt/v2/generate",
        "/admin",
        "/.git/config",
        "/favicon.ico;.json",
        "/%ff%fe",
        "/%zz",
        "/a%0d%0aX-Injected:%201",
    ):
        yield Case(f"path: {path}", request(path, b"", method="GET"), {400, 404})
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        yield Case(f"method: {method}", request(GENERATE, b"", method=method, headers="Connection: close\r\n"), {405})
    for method in ("POST", "PUT", "DELETE"):
        yield Case(f"method: {method} /health", request("/health", method=method), {405})
    for method in ("TRACE", "PROPFIND", "BREW", "GETGETGET"):
        yield Case(f"method: {method}", request(GENERATE, b"", method=method), {400, 405})
