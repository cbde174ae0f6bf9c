"""A site of sixty pages and some traps, on this machine alone."""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

N_PAGES = 60
PROSE = "The sea was grey and the wind came from the west, so that nobody went out to fish that day. "
ROBOTS = "User-agent: *\nDisallow: /private\nDisallow: /*.secret$\n\nUser-agent: microgpt\nDisallow: /private/\n"


def page(number: int) -> str:
    links = (
        f'<a href="/page/{number + 1}">next</a> <a href="/private/{number}">no</a> <a href="http://127.0.0.2/">out</a>'
    )
    return (
        f'<html><head><title>Page {number}</title><meta name="date" content="2021-03-{number % 28 + 1:02}"></head>'
        f"<body><nav>menu menu menu</nav><article><h1>Page {number}</h1><p>Story {number}. {PROSE * 3}</p>"
        f"<p>{PROSE * 2}</p></article>{links}<script>alert(1)</script></body></html>"
    )


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.log.append(self.path)  # type: ignore[attr-defined]
        name = self.path.strip("/").replace("-", "_").partition("?")[0]
        trap = getattr(self, f"trap_{name}", None)
        if trap:
            trap()
        elif self.path == "/robots.txt":
            self.answer(ROBOTS.encode(), "text/plain")
        elif self.path.startswith(("/page/", "/private/")):
            number = int(self.path.rpartition("/")[2])
            if number < N_PAGES:
                self.answer(page(number).encode(), "text/html; charset=utf-8")
            else:
                self.answer(b"no", "text/plain", 404)
        else:
            self.answer(b"no", "text/plain", 404)

    def answer(self, body: bytes, kind: str = "text/html", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def go(self, to: str) -> None:
        self.answer(b"", status=302, Location=to)

    def drip(self, data: bytes, seconds: float) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(seconds)

    def trap_bomb(self) -> None:
        self.answer(gzip.compress(bytes(60_000_000)), Content_Encoding="gzip")

    def trap_small_bomb(self) -> None:  # below the ratio's measure, beyond max_bytes
        self.answer(gzip.compress("".join(f"{n} {PROSE}" for n in range(30_000)).encode()), Content_Encoding="gzip")

    def trap_nested_bomb(self) -> None:
        self.answer(gzip.compress(gzip.compress(bytes(10_000_000))), Content_Encoding="gzip, gzip")

    def trap_nested_unsaid(self) -> None:  # what is inside stays what it is: no text
        self.answer(gzip.compress(gzip.compress(page(1).encode())), Content_Encoding="gzip")

    def trap_deflate(self) -> None:
        self.answer(zlib.compress(page(1).encode()), Content_Encoding="deflate")

    def trap_brotli(self) -> None:
        self.answer(b"\x8b\x02\x80abc\x03", Content_Encoding="br")

    def trap_damaged(self) -> None:
        self.answer(b"\x1f\x8b\x08\x00 this is no gzip", Content_Encoding="gzip")

    def trap_cut(self) -> None:
        self.answer(gzip.compress(page(1).encode())[:-20], Content_Encoding="gzip")

    def trap_zipped(self) -> None:  # no trap
        self.answer(gzip.compress(page(1).encode()), Content_Encoding="gzip")

    def trap_endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        while True:
            self.wfile.write(PROSE.encode() * 100)

    def trap_short(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"<html>")

    def trap_slow_body(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.flush()
        self.drip(PROSE.encode(), 0.05)

    def trap_slow_head(self) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Filler: " + b"a" * 200, 0.05)

    def trap_huge_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 20_000)

    def trap_image(self) -> None:
        self.answer(b"\x89PNG\r\n\x1a\n", "image/png")

    def trap_program(self) -> None:
        self.answer(b"\x7fELF\0\0\0", "text/html")

    def trap_tags(self) -> None:
        self.answer(b"<p>a" * 250_000)

    def trap_attributes(self) -> None:  # one tag, whose parser takes time by the square of their number
        self.answer(b"<html><body><p " + b" ".join(b"a%d=1" % n for n in range(400_000)) + b">text</p>")

    def trap_nested_tags(self) -> None:
        self.answer(b"<html><body>" + b"<p>" * 190_000 + PROSE.encode() * 20)

    def trap_charset(self) -> None:  # the standard library's parser of headers raises a TypeError on it
        self.answer(page(7).encode(), "text/html; charset*0*=utf-8''%ff; charset*=1")

    def trap_continue(self) -> None:
        with suppress(OSError):
            while True:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    def trap_empty(self) -> None:
        self.answer(b"", "text/html")

    def trap_codec(self) -> None:
        self.answer(page(2).encode(), "text/html; charset=rot13")

    def trap_liar(self) -> None:  # says UTF-8, is windows-1252
        self.answer(page(3).replace("sea", "caf\u00e9").encode("cp1252"), "text/html; charset=utf-8")

    def trap_russian(self) -> None:
        text = page(4).replace("sea", "\u043c\u043e\u0440\u0435").replace("<head>", '<head><meta charset="koi8-r">')
        self.answer(text.encode("koi8-r"), "text/html")

    def trap_plain(self) -> None:
        self.answer(b"one\r\ntwo\r\n", "text/plain; charset=us-ascii")

    def trap_to_loopback(self) -> None:
        self.go("http://127.0.0.1/")

    def trap_to_metadata(self) -> None:
        self.go("http://169.254.169.254/latest/meta-data/")

    def trap_to_file(self) -> None:
        self.go("file:///etc/passwd")

    def trap_to_data(self) -> None:
        self.go("data:text/html,hello")

    def trap_to_other_port(self) -> None:
        self.go("http://localhost:1/")

    def trap_to_private(self) -> None:
        self.go("/private/1")

    def trap_to_itself(self) -> None:
        self.go("/to-itself")

    def trap_to_page(self) -> None:
        self.go("/page/5")

    def trap_busy(self) -> None:
        count: Counter[str] = self.server.count  # type: ignore[attr-defined]
        count["busy"] += 1
        if count["busy"] < 3:
            self.answer(b"", status=503, Retry_After="7")
        else:
            self.answer(page(6).encode())

    def trap_patience(self) -> None:
        self.answer(b"", status=429, Retry_After="86400")

    def trap_down(self) -> None:
        self.answer(b"", status=500)

    def log_message(self, *args: Any) -> None:
        pass


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler] = Handler) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.log: list[str] = []
        self.count: Counter[str] = Counter()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def host(self) -> str:
        return f"localhost:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that had enough of a trap

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()
