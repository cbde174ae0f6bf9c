"""robots.txt (RFC 9309): the pages of a site that may be fetched, and how often."""

from __future__ import annotations

from microgpt.data.scrape.addresses import Refused, Target
from microgpt.data.scrape.fetch import LONGEST_WAIT, Fetcher, PageError
from microgpt.data.scrape.worker import Worker

LIMIT = 512_000  # bytes of robots.txt that are read; RFC 9309 asks for 500 KiB


class Disallowed(PageError):
    """The site's robots.txt disallows the page."""


class Robots:
    """The rules of each site, fetched once per crawl and parsed by `worker`."""

    def __init__(self, fetcher: Fetcher, worker: Worker) -> None:
        self.fetcher, self.worker = fetcher, worker
        self.rules: dict[str, bytes | str] = {}  # by origin: its robots.txt; a string is why nothing may be fetched

    def allowed(self, target: Target) -> float:
        """Seconds between two requests to this host. Raises Disallowed, Refused."""
        if target.origin not in self.rules:
            self.fetcher.gate.check(target.host, target.port)
            self.rules[target.origin] = self._read(target)
        rules = self.rules[target.origin]
        if isinstance(rules, str):
            raise Disallowed(rules)
        if not rules:
            return 0.0
        try:
            allowed, delay = self.worker.may_fetch(rules, target.url)
        except PageError as error:
            reason = f"{target.origin}/robots.txt: {error}, so nothing may be fetched"
            self.rules[target.origin] = reason
            raise Disallowed(reason) from None
        if not allowed:
            raise Disallowed(f"{target.origin}/robots.txt disallows it")
        if delay > LONGEST_WAIT:
            raise Disallowed(f"{target.origin}/robots.txt asks for {delay:.0f} s between requests")
        return delay

    def _read(self, target: Target) -> bytes | str:
        """The rules, or the reason why nothing may be fetched: a server that fails or is unreachable allows nothing."""
        place = target._replace(path="/robots.txt")
        try:
            return self.fetcher.fetch(place, lambda target: 0.0, LIMIT).body
        except Refused:
            raise
        except PageError as error:
            if not 300 <= error.status < 500:
                return f"{place.url} cannot be fetched ({error}), so nothing may be fetched"
            return b""  # there is none: anything may be fetched
