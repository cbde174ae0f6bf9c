"""URLs → corpus: fetch pages, follow links, keep their main text, and report the pages that failed."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.data.datasets import cache_folder
from microgpt.data.scrape.addresses import Refused, Target, parse
from microgpt.data.scrape.fetch import Fetcher, PageError
from microgpt.data.scrape.page import Page, WrongType, checked
from microgpt.data.scrape.robots import Disallowed, Robots
from microgpt.data.scrape.worker import Worker
from microgpt.data.sources import read_text
from microgpt.errors import CheckpointError, DataError, MicrogptError, UsageError

Log = Callable[[str], None]


@dataclass
class Report:
    """The outcome of a crawl."""

    pages: int = 0
    characters: int = 0
    from_cache: int = 0
    requests: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # reason by URL; an error unless partial is allowed
    skipped: dict[str, str] = field(default_factory=dict)  # reason by URL: links to other types, or disallowed ones
    not_tried: int = 0  # links beyond max_pages; a link on two pages may count twice

    def summary(self) -> str:
        """A summary in one line."""
        parts = [f"{self.pages:,} pages, {self.characters:,} characters, {self.requests:,} requests"]
        parts += [f"{self.from_cache:,} from the cache"] if self.from_cache else []
        parts += [f"{len(self.skipped):,} links skipped"] if self.skipped else []
        parts += [f"{self.not_tried:,} links beyond --max-pages"] if self.not_tried else []
        parts += [f"{len(self.failed):,} failed"] if self.failed else []
        return "; ".join(parts)


def read_urls(path: Path) -> list[str]:
    """The URLs of a file, one per line; # begins a comment. Raises DataError."""
    lines = read_text(path, files.SMALL).split("\n")
    return [url for line in lines if (url := line.partition(" #")[0].strip()) and not url.startswith("#")]


class Crawl:
    """The pages of some URLs, breadth first; with `depth` also the pages of the same host that they link to."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        depth: int = 0,
        max_pages: int = 1000,
        cache: Path | None = None,
        log: Log = lambda line: None,
        worker: Worker | None = None,
    ) -> None:
        self.worker = worker or Worker(fetcher.limits.seconds)
        self.fetcher, self.robots = fetcher, Robots(fetcher, self.worker)
        self.depth, self.max_pages, self.cache, self.log = depth, max_pages, cache, log
        self.report = Report()

    def close(self) -> None:
        """End the process that reads the pages; the next page starts another."""
        self.worker.close()

    def pages(self, urls: Iterable[str]) -> Iterator[Page]:
        """Each page once. The report lists the failures."""
        named = list(dict.fromkeys(urls))
        waiting = [(url, 0) for url in named]
        seen, found = {target.url for target in map(_parsed, named) if target}, set[str]()
        for tried, (url, level) in enumerate(waiting):  # grows on the way
            self.log(f"page {tried + 1:,} of {len(waiting):,}: {url}")
            page = self._page(url, level)
            if page is None or page.url in found:
                continue
            found.add(page.url)
            self.report.pages += 1
            self.report.characters += len(page.text)
            yield page
            if level < self.depth:
                new = [link for link in page.links if link not in seen and link not in found]
                room = max(0, self.max_pages - len(waiting))  # no more are held than can be tried
                self.report.not_tried += len(new[room:])
                seen.update(new[:room])
                waiting += [(link, level + 1) for link in new[:room]]

    def _page(self, url: str, level: int) -> Page | None:
        try:
            target = parse(url)
            if page := self._cached(target):
                self.report.from_cache += 1
                return page
            self.worker.start()
            try:
                page = self.worker.page(self.fetcher.fetch(target, self.robots.allowed))
            finally:
                self.report.requests = len(self.fetcher.requests)
            self._keep(target, page)
            return page
        except (Disallowed, WrongType) as error:
            (self.report.skipped if level else self.report.failed)[url] = str(error)
        except (PageError, Refused) as error:
            self.report.failed[url] = str(error)
        except MicrogptError:
            raise  # the user's disk or machine
        except Exception as error:  # in whatever way nobody thought of, it is this page that fails and not the crawl
            self.report.failed[url] = f"unexpected {type(error).__name__}: {error}"
        return None

    def _place(self, target: Target) -> Path | None:
        return self.cache / f"{hashlib.sha256(target.url.encode()).hexdigest()}.json" if self.cache else None

    def _cached(self, target: Target) -> Page | None:
        self.fetcher.gate.check(target.host, target.port)
        place = self._place(target)
        if place is None or not place.is_file():
            return None
        try:
            return checked(files.read_json(place))
        except (CheckpointError, ValueError):
            return None  # of another version, or damaged: fetched again

    def _keep(self, target: Target, page: Page) -> None:
        if place := self._place(target):
            with files.disk("write", place):
                files.make_folders(place.parent)
                if place.is_dir():
                    files.remove_folder(place)
                files.write_atomic(place, files.to_json(page._asdict(), None))


def _parsed(url: str) -> Target | None:
    try:
        return parse(url)
    except Refused:
        return None


def as_jsonl(page: Page) -> bytes:
    """A page as a line of the corpus."""
    return files.to_json({"text": page.text, "title": page.title, "url": page.url, "date": page.date}, None)


def as_text(page: Page) -> bytes:
    """A page as lines, a blank one after it."""
    return f"{page.text}\n\n".encode()


def scrape(
    crawl: Crawl, urls: list[str], out: Path, *, allow_partial: bool, line: Any = as_jsonl, replace: bool = False
) -> Report:
    """Write the pages of `urls` to `out`, whole or not at all; with `replace` a file that is there is replaced.

    However the crawl ends, the pages that were fetched are kept: in the cache if there is one, else in a file that
    the log names.

    Raises DataError if a page failed (unless `allow_partial`) or there is none, UsageError if `out` exists (also
    when it appears while the crawl lasts; then the pages are kept in a file beside it), MachineError.
    """
    if not urls:
        raise DataError("no URL to scrape; name some, or a file of them with --url-file")
    if not replace and os.path.lexists(out):
        raise UsageError(f"{out}: exists already; name another file with --out", "E_EXISTS")
    temporary = files.temporary_path(out)
    try:
        with files.disk("write", out):
            files.make_folders(out.absolute().parent)
            files.append_bytes(temporary, b"")
            for page in crawl.pages(urls):
                files.append_bytes(temporary, line(page))
            _require_pages(crawl, allow_partial)
            files.flush(temporary)
            if replace:
                files.replace(temporary, out)
            else:
                _publish_new(temporary, out)
    except BaseException:
        _keep_pages(crawl, temporary, out)
        raise
    finally:
        crawl.close()
    return crawl.report


def _require_pages(crawl: Crawl, allow_partial: bool) -> None:
    """Log the failures and the summary. Raises DataError if pages failed and that is not allowed."""
    report = crawl.report
    for url, why in (report.failed | report.skipped).items():
        crawl.log(f"{'failed ' if url in report.failed else 'skipped'} {url}: {why}")
    crawl.log(report.summary())
    if report.failed and not (allow_partial and report.pages):
        url, why = next(iter(report.failed.items()))
        raise DataError(
            f"{len(report.failed)} of {report.pages + len(report.failed)} pages failed, first {url}: {why}; "
            + ("correct the list, or keep the rest with --allow-partial" if report.pages else "correct the list"),
            "E_SCRAPE",
        )


def _publish_new(temporary: Path, out: Path) -> None:
    """Give the corpus its name, or a free one beside it if that was taken meanwhile. Raises UsageError, OSError."""
    try:
        files.publish(temporary, out)
    except FileExistsError:
        kept = _publish_beside(temporary, out, "", 2)
        raise UsageError(
            f"{out}: exists already (it was written while this crawl went on); its own pages are in {kept}", "E_EXISTS"
        ) from None


def _publish_beside(temporary: Path, out: Path, word: str, first: int) -> Path:
    """Give a file the first free name like `out` with a word and a number from `first`. Raises OSError."""
    for number in itertools.count(first):
        with suppress(FileExistsError):
            return files.publish(temporary, out.with_name(f"{out.stem}{word}-{number}{out.suffix}"))
    raise AssertionError("numbers have no end")


def _keep_pages(crawl: Crawl, temporary: Path, out: Path) -> None:
    """Keep the pages of a crawl that failed, and log where."""
    if not temporary.exists():  # it has a name beside `out`, or was never made
        return
    pages, kept = crawl.report.pages, temporary
    if not pages or crawl.cache:
        files.discard(temporary)
    else:
        with suppress(OSError):
            kept = _publish_beside(temporary, out, "-partial", 1)
    if pages:
        place = "in the cache; the same command continues from there" if crawl.cache else f"in {kept}"
        crawl.log(f"the {pages:,} pages fetched so far are kept {place}")


def web_cache() -> Path:
    """The folder of cached pages."""
    return cache_folder() / "web"


def text_file(urls: list[str]) -> Path:
    """The file for the text of a list of URLs, to train a run on."""
    host = next((target.host for target in map(_parsed, urls) if target), "web")
    digest = hashlib.sha256("\n".join(urls).encode()).hexdigest()
    return web_cache() / "texts" / f"{host}-{digest[:8]}.txt"
