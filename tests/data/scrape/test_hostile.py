"""Pages, headers and rules that mean harm, and crawls that are ended or meet: no page stops the crawl, none is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from microgpt.data.scrape import fetch
from microgpt.data.scrape.addresses import Gate, Refused, parse
from microgpt.data.scrape.crawl import scrape
from microgpt.data.scrape.fetch import Fetcher, Limits, Reply
from microgpt.data.scrape.page import PageError
from microgpt.data.scrape.worker import MEMORY, Worker
from microgpt.errors import MachineError, UsageError
from tests.data.scrape.site import Handler, Site, page
from tests.data.scrape.test_crawl import WORKER, crawl_of, reason

DEADLINE = 3.0  # seconds for a page that takes for ever; pages of the site take some milliseconds


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module", autouse=True)
def _end_of_the_worker() -> Iterator[None]:
    yield
    WORKER.close()


@pytest.fixture
def impatient() -> Iterator[Worker]:
    worker = Worker(DEADLINE)
    yield worker
    worker.close()


def urls(site: Site, *paths: str) -> list[str]:
    return [f"http://{site.host}{path}" for path in paths]


@pytest.mark.parametrize("path", ["/attributes", "/nested-tags"])
def test_a_page_that_its_parser_cannot_finish_ends_alone(
    site: Site, path: str, impatient: Worker, tmp_path: Path
) -> None:
    crawl = crawl_of(site, Limits(), worker=impatient)
    impatient.may_fetch(b"User-agent: *", f"http://{site.host}/")  # its imports are no part of what is measured
    before = time.monotonic()
    report = scrape(crawl, urls(site, "/page/1", path, "/page/2"), tmp_path / "c.jsonl", allow_partial=True)
    assert time.monotonic() - before < DEADLINE + 20
    assert report.failed == {f"http://{site.host}{path}": "reading it takes more than 3 s (--page-seconds)"}
    assert report.pages == 2
    assert impatient.process is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_while_a_page_is_parsed(site: Site, number: int, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    command = [sys.executable, "-m", "microgpt", "data", "scrape", *urls(site, "/page/1", "/attributes")]
    command += ["--allow-private", site.host, "--out", str(out), "--page-seconds", "300"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "MICROGPT_CACHE_DIR": str(tmp_path / "cache")}
    )
    while "/attributes" not in site.log:
        time.sleep(0.05)
    time.sleep(1.5)  # the page has come, and its parser is at work
    before = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate()
    assert time.monotonic() - before < 3  # a tenth of a second, on a machine that has nothing else to do
    assert process.returncode == 128 + number
    assert b"the 1 pages fetched so far are kept in the cache" in errors
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_the_process_ends_with_the_crawl_and_without_its_parent(site: Site, tmp_path: Path) -> None:
    worker = Worker()
    scrape(crawl_of(site, worker=worker), urls(site, "/page/1"), tmp_path / "c.jsonl", allow_partial=False)
    assert worker.process is None
    code = "from microgpt.data.scrape.worker import Worker; w = Worker(); w.start(); print(w.process.pid, flush=True)"
    killed = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; os.kill(os.getpid(), 9)"], capture_output=True, check=False
    )
    pid = int(killed.stdout)
    for _ in range(300):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").is_file() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return  # ended; nobody waits for it here
        time.sleep(0.1)
    pytest.fail("the process outlives its parent")


def test_a_process_that_dies_is_one_page_s_failure(site: Site) -> None:
    worker = Worker()
    reply = Reply(parse(f"http://{site.host}/"), page(1).encode(), "text/html", None)
    assert worker.page(reply).title == "Page 1"
    assert worker.process
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(PageError, match=r"the parser ended, status -9"):
        worker.page(reply)
    assert worker.page(reply).title == "Page 1"
    worker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's addresses")
def test_the_process_has_a_limit_of_memory() -> None:
    code = "from microgpt.data.scrape import worker; worker._limit_memory(); bytearray(worker.MEMORY)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
    assert MEMORY <= 2**31


def test_rules_that_take_for_ever_allow_nothing(impatient: Worker) -> None:
    """Each rule is put into the group of each agent, as RFC 9309 has it: so their numbers multiply."""

    class Rules(Handler):
        def do_GET(self) -> None:
            if self.path == "/robots.txt":
                text = "".join(f"User-agent:a{n}\n" for n in range(14_000)) + "Disallow:/a\n" * 18_000
                self.answer(text.encode(), "text/plain")
            else:
                super().do_GET()

    site = Site(Rules)
    crawl = crawl_of(site, Limits(), worker=impatient)
    before = time.monotonic()
    assert list(crawl.pages(urls(site, "/page/1", "/page/2"))) == []
    assert time.monotonic() - before < DEADLINE + 20
    site.close()
    assert all("robots.txt: reading it takes more than 3 s" in why for why in crawl.report.failed.values())
    assert site.log == []  # no page was asked for


def test_a_header_that_is_none_is_that_page_s_alone(site: Site) -> None:
    crawl = crawl_of(site)
    assert [found.title for found in crawl.pages(urls(site, "/page/1", "/charset", "/page/2"))] == [
        "Page 1",
        "Page 7",
        "Page 2",
    ]


def test_endless_interim_responses_end_soon(site: Site) -> None:
    before = time.monotonic()
    assert reason(site, "/continue", Limits(seconds=60)) == "more than 262,144 bytes of headers"
    assert time.monotonic() - before < 5  # some tenths of a second
    assert site.log.count("/continue") == 1


def test_a_failure_that_nobody_thought_of_is_one_page_s(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl, real = crawl_of(site), Fetcher._once

    def once(self: Fetcher, target: fetch.Target, max_bytes: int) -> Reply | str:
        if target.path == "/page/2":
            raise TypeError("of a library")
        return real(self, target, max_bytes)

    monkeypatch.setattr(Fetcher, "_once", once)
    assert len(list(crawl.pages(urls(site, "/page/1", "/page/2", "/page/3")))) == 2
    assert crawl.report.failed == {f"http://{site.host}/page/2": "unexpected TypeError: of a library"}


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device"), AssertionError("defect")])
def test_what_was_fetched_is_kept_however_the_crawl_ends(
    site: Site, tmp_path: Path, cached: bool, end: BaseException
) -> None:
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith("page 3"):
            raise end

    crawl = crawl_of(site, cache=tmp_path / "cache" if cached else None, log=log)
    out = tmp_path / "c.jsonl"
    pages = urls(site, "/page/1", "/page/2", "/page/3")
    with pytest.raises((KeyboardInterrupt, MachineError, AssertionError)) as error:
        scrape(crawl, pages, out, allow_partial=False)
    assert end in (error.value, error.value.__cause__)
    assert not out.exists()
    if cached:
        assert lines[-1].startswith("the 2 pages fetched so far are kept in the cache")
        crawl = crawl_of(site, cache=tmp_path / "cache")
        assert scrape(crawl, pages, out, allow_partial=False).from_cache == 2
    else:
        kept = tmp_path / "c-partial-1.jsonl"
        assert lines[-1] == f"the 2 pages fetched so far are kept in {kept}"
        assert [json.loads(line)["title"] for line in kept.read_text().splitlines()] == ["Page 1", "Page 2"]
    assert not list(tmp_path.glob(".microgpt-tmp-*"))


def test_two_crawls_into_one_file_lose_nothing(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"

    def crawl_too(line: str) -> None:
        if line.startswith("page 2"):  # the other one begins later and ends sooner
            scrape(crawl_of(site), urls(site, "/page/3"), out, allow_partial=False)

    crawl = crawl_of(site, log=crawl_too, worker=Worker())
    with pytest.raises(UsageError, match=r"c\.jsonl: exists already .*its own pages are in .*c-2\.jsonl") as error:
        scrape(crawl, urls(site, "/page/1", "/page/2"), out, allow_partial=False)
    assert error.value.code == "E_EXISTS"

    def titles(path: Path) -> list[str]:
        return [json.loads(line)["title"] for line in path.read_text().splitlines()]

    assert titles(out) == ["Page 3"]
    assert titles(tmp_path / "c-2.jsonl") == ["Page 1", "Page 2"]
    assert len(list(tmp_path.iterdir())) == 2
    asked = len(site.log)
    with pytest.raises(UsageError, match="exists already") as error:
        scrape(crawl_of(site), urls(site, "/page/1"), out, allow_partial=False)
    assert error.value.code == "E_EXISTS"
    assert len(site.log) == asked


GOOD = {"url": "http://a.example/", "title": "t", "date": None, "text": "t", "links": []}
ENTRIES = [
    [], {}, 5, None, "x", [GOOD], {**GOOD, "text": 5}, {**GOOD, "text": None}, {**GOOD, "links": None},
    {**GOOD, "links": 5}, {**GOOD, "links": [5]}, {**GOOD, "links": "http://a.example/"}, {**GOOD, "url": []},
    {**GOOD, "url": {}}, {**GOOD, "title": 5}, {**GOOD, "date": [1]}, {**GOOD, "more": 1},
]  # fmt: skip


def test_cache_entries_of_a_wrong_type_are_fetched_anew(site: Site, tmp_path: Path) -> None:
    cache, named = tmp_path / "web", urls(site, "/page/1")
    (first,) = crawl_of(site, cache=cache, depth=1, max_pages=1).pages(named)
    (entry,) = cache.iterdir()
    for value in [*map(json.dumps, ENTRIES), "[" * 5000, "{", "", '{"text": NaN}', "folder"]:
        if value == "folder":
            entry.unlink()
            entry.mkdir()
            (entry / "file").write_text("x")
        else:
            entry.write_text(value)
        crawl = crawl_of(site, cache=cache, depth=1, max_pages=1)
        assert list(crawl.pages(named)) == [first], value
        assert crawl.report.from_cache == 0, value
        assert json.loads(entry.read_text())["title"] == "Page 1"


@pytest.mark.parametrize(("host", "port"), [("::1", 8080), ("::1", 80), ("127.0.0.1", 8080), ("10.0.0.1", 443)])
def test_the_advised_flag_opens_what_was_refused(host: str, port: int) -> None:
    with pytest.raises(Refused) as error:
        Gate().check(host, port)
    flag = re.search(r"--allow-private (\S+)", str(error.value))
    assert flag
    Gate([flag[1]]).check(host, port)


@pytest.mark.parametrize("text", ["::1:8080", "::1", "fe80::1", "[::1]:99999", "a:99999", "[::1", "[]:80"])
def test_what_opens_nothing_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Gate([text])


def test_the_brackets_of_ipv6_are_asked_for() -> None:
    with pytest.raises(Refused, match=r"needs brackets, as in \[::1\]:8080"):
        Gate(["::1:8080"])
