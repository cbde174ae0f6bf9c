"""A small fuzz: pages of random types, encodings, statuses and bodies between good ones end no crawl."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from microgpt.data.scrape import fetch
from microgpt.data.scrape.addresses import Gate
from microgpt.data.scrape.crawl import Crawl, scrape
from microgpt.data.scrape.fetch import Fetcher, Limits
from tests.data.scrape.clock import NoWait
from tests.data.scrape.site import Handler, Site

WORDS = [
    "text/html", "text/plain", "TEXT/HTML", "text", "/", "", "image/png", "application/xhtml+xml", "; charset=utf-8",
    ";charset=utf-16", ";charset*=utf-8''%ff", "; charset*0*=utf-8''%ff; charset*=1", "; charset*1=x",
    ';charset="', ';charset=""', "; charset=idna", "; charset=rot13", "; charset=\u00ff", "; charset=" + "x" * 5000,
    "; a=b" * 3000,
    "; charset=utf-7", ";boundary=x", ",text/html", "\t", '; charset="utf-8\\"', "; charset=hz", "; charset==?x?=",
]  # fmt: skip
ENCODINGS = [
    "",
    "",
    "",
    "",
    "gzip",
    "gzip",
    "gzip",
    "x-gzip",
    "gzip, gzip",
    "identity",
    "br",
    "gzip\u00ff",
    "," * 2000,
    "GZIP",
]
TAGS = [
    "<p>", "</p>", "<b", "<!--", "-->", "<![CDATA[", "]]>", "<?xml version='1.0' encoding='utf-16'?>", "<table><td>",
    "<base href='http://[/'>", "<a href='//'>x</a>", "<a href='http://\u0130.example:99999/'>", "<svg>", "<math>", "\0",
    "<meta charset=utf-16>", "<meta name=date content='99999-99-99'>", "<title>\x1b]0;x\x07</title>", "<script>",
    "&#0;", "&#xD800;", "&#x110000;", "&" * 50, "<a " + "b=c " * 300 + ">", "<div>" * 300, "\u202e", "\ud83d\ude00" * 3,
    "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]>&b;", "<html><html>", "<frameset>", "<plaintext>",
    "<link rel=canonical href='javascript:x'>", "<time datetime='0000-00-00'>", "<article>" + "The sea was grey. " * 30,
]  # fmt: skip


class Fuzz(Handler):
    """/fuzz/N is a page of random parts, the same each time."""

    def do_GET(self) -> None:
        if not self.path.startswith("/fuzz/"):
            super().do_GET()
            return
        rng = random.Random(int(self.path.rpartition("/")[2]))
        text = "".join(rng.choices(TAGS, k=rng.randrange(60)))
        body = text.encode(rng.choice(["utf-8", "utf-16"]), "surrogatepass")
        if rng.random() < 0.3:
            body = rng.randbytes(rng.randrange(2000)) + body
        encoding = rng.choice(ENCODINGS)
        if "gzip" in encoding.lower() and rng.random() < 0.8:
            body = gzip.compress(body)
        if rng.random() < 0.2:
            body = body[: len(body) // 2]
        kind = rng.choice(["text/html", "text/plain", ""]) + "".join(rng.choices(WORDS, k=rng.randrange(4)))
        status = rng.choices([200, 302, 204, 206, 404, 999, 101], [40, 1, 1, 1, 1, 1, 1])[0]
        place = rng.choice(["/page/1", "http://[", "//", "\u00ff" * 3000, "http://\u00e9:99/", "http://0x7f.1/", ""])
        lines = [f"HTTP/1.1 {status} \u00ff", f"Content-Type: {kind}", f"Content-Encoding: {encoding}"]
        lines += [f"Location: {place}", f"Retry-After: {rng.choice(['', '0', '-1', 'Thu, 99 Foo', '1e9', '²'])}"]
        lines += rng.choices(["Content-Type: a/b", "X: \u00fe", "Transfer-Encoding: chunked", "Connection: x"], k=1)
        size = len(body) + rng.choices([0, 7, -3], [10, 1, 1])[0]
        lines += [f"Content-Length: {size}"] if rng.random() < 0.7 else []
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.close_connection = True


def test_no_page_of_a_fuzz_ends_a_crawl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch, "TRIES", 1)
    site = Site(Fuzz)
    paths = [f"/fuzz/{n}" for n in range(60)]
    for n in range(0, 60, 6):
        paths.insert(n, f"/page/{n}")
    crawl = Crawl(Fetcher(Gate([site.host]), Limits(seconds=5.0), NoWait()), cache=tmp_path / "web")
    report = scrape(crawl, [f"http://{site.host}{path}" for path in paths], tmp_path / "c.jsonl", allow_partial=True)
    site.close()
    found = {json.loads(line)["url"] for line in (tmp_path / "c.jsonl").read_text("utf-8").splitlines()}
    assert {f"http://{site.host}/page/{n}" for n in range(0, 60, 6)} <= found
    assert report.pages > 12  # some of the others are good enough
    assert len(report.failed) > 30
    assert not [why for why in report.failed.values() if why.startswith("unexpected") or "parser ended" in why]
