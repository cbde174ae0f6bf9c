"""What a site lets robots fetch (RFC 9309), and how often."""

from __future__ import annotations

from typing import Any

from microgpt.data.scrape.addresses import Refused, Target
from microgpt.data.scrape.fetch import AGENT, LONGEST_WAIT, Fetcher, PageError

LIMIT = 512_000  # bytes of robots.txt that are read; RFC 9309 asks for 500 KiB


class Disallowed(PageError):
    """The site does not want this page to be fetched by robots."""


class Robots:
    """The rules of each site, fetched once a run."""

    def __init__(self, fetcher: Fetcher) -> None:
        self.fetcher = fetcher
        self.rules: dict[str, Any] = {}  # by origin; a text is the reason why nothing may be fetched

    def allowed(self, target: Target) -> float:
        """Seconds to keep between two requests of this host. Raises Disallowed, Refused."""
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
        """The rules, or why there may be no fetching: a server that fails, or cannot be reached, allows nothing."""
        from protego import Protego

        place = target._replace(path="/robots.txt")
        try:
            text = self.fetcher.fetch(place, lambda target: 0.0, LIMIT).body.decode("utf-8", "replace")
        except Refused:
            raise
        except PageError as error:
            if not 300 <= error.status < 500:
                return f"{place.url} cannot be had ({error}), so nothing may be fetched"
            text = ""  # there is none: anything may be fetched
        return Protego.parse(text.removeprefix("\ufeff"))
