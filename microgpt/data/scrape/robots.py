"""robots.txt (RFC 9309): the pages of a site that may be fetched, and how often."""

from __future__ import annotations

from typing import Any

from microgpt.data.scrape.addresses import Refused, Target
from microgpt.data.scrape.fetch import AGENT, LONGEST_WAIT, Fetcher, PageError

LIMIT = 512_000  # bytes of robots.txt that are read; RFC 9309 asks for 500 KiB


class Disallowed(PageError):
    """The site's robots.txt disallows the page."""


class Robots:
    """The rules of each site, fetched once per crawl."""

    def __init__(self, fetcher: Fetcher) -> None:
        self.fetcher = fetcher
        self.rules: dict[str, Any] = {}  # by origin; a string is the reason why nothing may be fetched

    def allowed(self, target: Target) -> float:
        """Seconds between two requests to this host. Raises Disallowed, Refused."""
        if target.origin not in self.rules:
            self.fetcher.gate.check(target.host, target.port)
            self.rules[target.origin] = self._read(target)
        rules = self.rules[target.origin]
        if isinstance(rules, str):
            raise Disallowed(rules)
        if not rules.can_fetch(target.url, AGENT):
            raise Disallowed(f"{target.origin}/robots.txt disallows it")
        delay = rules.crawl_delay(AGENT) or 0.0
        if delay > LONGEST_WAIT:
            raise Disallowed(f"{target.origin}/robots.txt asks for {delay:.0f} s between requests")
        return float(delay)

    def _read(self, target: Target) -> Any:
        """The rules, or the reason why nothing may be fetched: a server that fails or is unreachable allows nothing."""
        from protego import Protego

        place = target._replace(path="/robots.txt")
        try:
            text = self.fetcher.fetch(place, lambda target: 0.0, LIMIT).body.decode("utf-8", "replace")
        except Refused:
            raise
        except PageError as error:
            if not 300 <= error.status < 500:
                return f"{place.url} cannot be fetched ({error}), so nothing may be fetched"
            text = ""  # there is none: anything may be fetched
        return Protego.parse(text.removeprefix("\ufeff"))
