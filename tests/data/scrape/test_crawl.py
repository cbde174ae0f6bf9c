"""The scraper against a site of this machine: its pages, its rules, its traps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.data.scrape import fetch
from microgpt.data.scrape.addresses import Gate, parse
from microgpt.data.scrape.crawl import Crawl, read_urls, scrape
from microgpt.data.scrape.fetch import Fetcher, Limits, Pace
from microgpt.data.scrape.page import decode, links
from microgpt.data.scrape.worker import Worker
from microgpt.errors import DataError
from tests.data.scrape.clock import NoWait
from tests.data.scrape.site import N_PAGES, PROSE, Handler, Site


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


WORKER = Worker(30.0)  # one for all tests: starting takes a second


@pytest.fixture(scope="module", autouse=True)
def _end_of_the_worker() -> Iterator[None]:
    yield
    WORKER.close()


def crawl_of(site: Site, limits: Limits | None = None, **options: object) -> Crawl:
    fetcher = Fetcher(Gate([site.host]), limits or Limits(max_bytes=2_000_000, seconds=5.0), NoWait())
    return Crawl(fetcher, **{"worker": WORKER, **options})  # type: ignore[arg-type]


def reason(site: Site, path: str, limits: Limits | None = None) -> str:
    crawl = crawl_of(site, limits)
    assert list(crawl.pages([f"http://{site.host}{path}"])) == []
    (why,) = crawl.report.failed.values()
    return why


def test_a_whole_site_by_its_links(site: Site, tmp_path: Path) -> None:
    crawl = crawl_of(site, depth=N_PAGES)
    out = tmp_path / "corpus.jsonl"
    with pytest.raises(DataError, match=r"1 of 61 pages failed.*/page/60: the server answers 404"):
        scrape(crawl, [f"http://{site.host}/page/0"], out, allow_partial=False)
    (kept,) = tmp_path.iterdir()  # no corpus, but what was fetched is lost neither
    assert kept.name == "corpus-partial-1.jsonl"
    crawl = crawl_of(site, depth=N_PAGES)
    report = scrape(crawl, [f"http://{site.host}/page/0"], out, allow_partial=True)
    assert kept.read_bytes() == out.read_bytes()
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["title"] for row in rows] == [f"Page {n}" for n in range(N_PAGES)]
    assert [row["url"] for row in rows] == [f"http://{site.host}/page/{n}" for n in range(N_PAGES)]
    assert rows[3]["date"] == "2021-03-04"
    assert PROSE.strip() in rows[0]["text"]
    assert "menu" not in rows[0]["text"]
    assert "alert" not in rows[0]["text"]
    assert (report.pages, len(report.failed), len(report.skipped)) == (N_PAGES, 1, N_PAGES)
    assert not any(path.startswith("/private") for path in site.log)
    assert site.log.count("/robots.txt") == 2


def test_no_links_are_followed_unless_asked(site: Site) -> None:
    crawl = crawl_of(site)
    assert len(list(crawl.pages([f"http://{site.host}/page/0"] * 2))) == 1
    assert site.log == ["/robots.txt", "/page/0"]
    crawl = crawl_of(site, depth=50, max_pages=10)
    assert len(list(crawl.pages([f"http://{site.host}/page/0"]))) < 10
    assert crawl.report.not_tried > 0


def test_one_request_a_second_a_host(site: Site) -> None:
    crawl = crawl_of(site)
    list(crawl.pages(f"http://{site.host}/page/{n}" for n in range(20)))
    clock = crawl.fetcher.clock
    assert isinstance(clock, NoWait)
    assert clock.slept == [1.0] * 20  # robots.txt and 20 pages
    pace = Pace(NoWait())
    pace.wait("a")
    pace.wait("b")
    assert pace.clock.now() == 0
    pace.wait("a", 5)
    pace.wait("a")
    assert pace.clock.now() == 6


TRAPS = {
    "/bomb": "decompression bomb",
    "/small-bomb": "more than 2,000,000 bytes",
    "/nested-bomb": "only gzip was asked for",
    "/nested-unsaid": "NUL",
    "/deflate": "only gzip was asked for",
    "/brotli": "only gzip was asked for",
    "/damaged": "damaged gzip",
    "/cut": "gzip data ends early",
    "/endless": "more than 2,000,000 bytes",
    "/short": "connection failed",
    "/huge-head": "connection failed",
    "/image": "the type is image/png",
    "/program": "NUL",
    "/tags": "more than 200,000 tags",
    "/empty": "no main text",
    "/to-loopback": "127.0.0.1 is a private or special address",
    "/to-metadata": "169.254.169.254 is a private or special address",
    "/to-file": "not a plain http",
    "/to-data": "not a plain http",
    "/to-other-port": "port 1;",
    "/to-private": "robots.txt disallows",
    "/to-itself": "more than 5 redirects",
    "/private/1": "robots.txt disallows",
    "/down": "the server answers 500",
    "/patience": "86400 s between tries",
    "/none": "the server answers 404",
}


@pytest.mark.parametrize("path", TRAPS)
def test_traps(site: Site, path: str) -> None:
    assert TRAPS[path] in reason(site, path)


@pytest.mark.parametrize("path", ["/slow-body", "/slow-head"])
def test_a_page_that_drips_ends_at_its_deadline(site: Site, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes well before a time-out of its own."""
    monkeypatch.setattr(fetch, "TRIES", 1)
    crawl = crawl_of(site, Limits(seconds=0.5))
    assert list(crawl.pages([f"http://{site.host}{path}"])) == []
    assert "no complete answer" in next(iter(crawl.report.failed.values()))


def test_a_busy_server_is_asked_again_when_it_says(site: Site) -> None:
    crawl = crawl_of(site)
    assert len(list(crawl.pages([f"http://{site.host}/busy"]))) == 1
    assert crawl.fetcher.clock.slept == [1.0, 7.0, 7.0]  # type: ignore[attr-defined]
    crawl = crawl_of(site)
    list(crawl.pages([f"http://{site.host}/down"]))
    assert crawl.fetcher.clock.slept == [1.0, 1.0, 2.0]  # type: ignore[attr-defined]


def test_charsets(site: Site) -> None:
    crawl = crawl_of(site)
    paths = ("codec", "liar", "russian", "plain", "zipped", "to-page")
    texts = [page.text for page in crawl.pages(f"http://{site.host}/{path}" for path in paths)]
    assert len(texts) == len(paths)
    assert "The sea" in texts[0]
    assert "The café" in texts[1]
    assert "The море" in texts[2]
    assert texts[3] == "one\ntwo"
    assert decode("é".encode("utf-16"), None) == "é"
    assert decode(b"\x93a\x94", "iso-8859-1") == "“a”"


RULES = {404: True, 410: True, 403: True, 500: False, 503: False}


@pytest.mark.parametrize("status", RULES)
def test_a_missing_robots_txt_allows_and_a_failing_one_forbids(status: int) -> None:
    class Other(Handler):
        def do_GET(self) -> None:
            if self.path == "/robots.txt":
                self.answer(b"", "text/plain", status)
            else:
                super().do_GET()

    site = Site(Other)
    crawl = crawl_of(site)
    assert bool(list(crawl.pages([f"http://{site.host}/page/1"]))) == RULES[status]
    site.close()
    if not RULES[status]:
        assert "nothing may be fetched" in next(iter(crawl.report.failed.values()))


def test_robots_txt_behind_redirects_and_with_a_delay() -> None:
    class Moved(Handler):
        def do_GET(self) -> None:
            if self.path == "/robots.txt":
                self.go("/r1")
            elif self.path in ("/r1", "/r2", "/r3"):
                self.go(f"/r{int(self.path[2]) + 1}")
            elif self.path == "/r4":
                self.go("/rules")
            elif self.path == "/rules":
                self.answer(b"User-agent: microgpt\nCrawl-delay: 3\nDisallow: /page/2", "text/plain")
            else:
                super().do_GET()

    site = Site(Moved)
    crawl = crawl_of(site)
    assert len(list(crawl.pages(f"http://{site.host}/page/{n}" for n in range(4)))) == 3
    site.close()
    assert crawl.fetcher.clock.slept == [1.0] * 6 + [3.0, 3.0]  # type: ignore[attr-defined]
    assert "/page/2" not in site.log


def test_an_unreachable_site_allows_nothing() -> None:
    site = Site()
    site.close()
    assert "nothing may be fetched" in reason(site, "/page/1")


def test_pages_are_kept_and_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    urls = [f"http://{site.host}/page/{n}" for n in range(3)]
    first = list(crawl_of(site, cache=tmp_path / "web").pages(urls))
    asked = len(site.log)
    crawl = crawl_of(site, cache=tmp_path / "web")
    assert list(crawl.pages(urls)) == first
    assert crawl.report.from_cache == 3
    assert len(site.log) == asked
    for file in (tmp_path / "web").iterdir():
        file.write_text("{}")
    assert list(crawl_of(site, cache=tmp_path / "web").pages(urls)) == first
    fetcher = Fetcher(Gate(), clock=NoWait())  # the cache opens nothing
    crawl = Crawl(fetcher, cache=tmp_path / "web")
    assert list(crawl.pages(urls)) == []


def test_links_stay_on_the_host() -> None:
    html = (
        "<base href='/d/'><a href='a'>a</a><a href='//other.example/b'>b</a><a href='https://h.example/c'>c</a>"
        "<a href='javascript:x()'>j</a><a href='http://[/'>x</a><a rel='nofollow' href='n'>n</a><a href='a#part'>a</a>"
    )
    assert links(html, parse("http://h.example/x")) == ["http://h.example/d/a"]
    assert links("", parse("http://h.example/")) == []


def test_a_file_of_urls(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    file.write_text("# books\nhttp://a.example/ # the first\n\n  http://b.example/#part\r\n")
    assert read_urls(file) == ["http://a.example/", "http://b.example/#part"]


def test_the_command(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "Clock", NoWait)
    (tmp_path / "urls").write_text(f"# two\nhttp://{site.host}/page/1\nhttp://{site.host}/page/2\n")
    out = tmp_path / "new" / "c.jsonl"
    scrape_it = ["data", "scrape", "--url-file", str(tmp_path / "urls"), "--out", str(out)]
    assert main(scrape_it) == 3
    assert "--allow-private" in capsys.readouterr().err
    assert not out.exists()
    assert main([*scrape_it, "--allow-private", site.host, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["pages"] == 2
    assert "page 2 of 2" in printed.err
    assert main(["train", str(out), "--steps", "2", "--engine", "manual", "--out", str(tmp_path / "run1")]) == 0
    asked = [
        "train",
        "--urls",
        f"http://{site.host}/page/1",
        f"http://{site.host}/page/3",
        "--allow-private",
        site.host,
    ]
    capsys.readouterr()
    assert main([*asked, "--steps", "2", "--engine", "manual", "--out", str(tmp_path / "run2")]) == 0
    printed = capsys.readouterr()
    assert "from the cache" in printed.err
    assert len(printed.out.splitlines()) == 20
    assert main(["train", "--urls", f"http://{site.host}/none", "--out", str(tmp_path / "run3")]) == 3
    assert not (tmp_path / "run3").exists()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ([], 2, "no URL"),
        (["http://a.example/", "--allow-private", "a:b"], 2, "HOST or HOST:PORT"),
        (["http://a.example/", "--max-bytes", "0"], 2, "--max-bytes"),
        (["http://a.example/", "--depth", "-1"], 2, "--depth"),
        (["--url-file", "/none"], 3, "no such file"),
        (["file:///etc/passwd"], 3, "not a plain http"),
    ],
)
def test_wrong_commands(words: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "scrape", *words]) == status
    assert sentence in capsys.readouterr().err.splitlines()[-1]
