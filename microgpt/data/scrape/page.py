"""The bytes of a page → its main text, title, date and links."""

from __future__ import annotations

import codecs
import re
from typing import Any, NamedTuple

from microgpt.data.scrape.addresses import Refused, Target, follow
from microgpt.data.scrape.fetch import PageError, Reply
from microgpt.errors import MachineError, install

HTML = ("text/html", "application/xhtml+xml")
PLAIN = "text/plain"
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
MAX_TAGS = 200_000  # more take the extraction over half a minute; a Bible on one page has 70,000
META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{1,40})", re.I)
CHARSETS = re.compile(  # text on the web; Python's other codecs are no charsets, or slow ones
    r"utf-?(8|16(le|be)?)|us-ascii|ascii|latin-?1|(iso-?)?8859-?\d+|(windows-?|cp)(125\d|874|932|949)|koi8-?[ru]|"
    r"macintosh|gb2312|gbk|gb18030|big5(-?hkscs)?|euc-?(jp|kr)|shift[_-]?jis|iso-?2022-?jp",
    re.I,
)
ASCII = re.compile(r"us-ascii|ascii|latin-?1|iso-?8859-?1", re.I)  # windows-1252 on the web


class WrongType(PageError):
    """A page that is not text."""


class Page(NamedTuple):
    """A page's main text, as it goes into the corpus."""

    url: str  # where it was found, after redirects
    title: str | None
    date: str | None  # year-month-day, if the page states it
    text: str
    links: list[str]  # in the order of the page, each once


def read_page(reply: Reply) -> Page:
    """The main text of a page. Raises WrongType, PageError, MachineError."""
    kind, url = reply.content_type, reply.target.url
    if kind not in ("", PLAIN, *HTML):
        raise WrongType(f"the type is {kind}; expected HTML or plain text")
    source = decode(reply.body, reply.charset)
    if "\0" in source[:1000]:
        raise WrongType("it is no text: it holds NUL bytes")
    source = source.replace("\0", "")
    if kind == PLAIN:
        title, date, text, found = None, None, source, list[str]()
    else:
        if source.count("<") > MAX_TAGS:
            raise PageError(f"more than {MAX_TAGS:,} tags; expected a page of prose")
        title, date, text = extract(source, url)
        found = links(source, reply.target)
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise PageError("no main text was found on it")
    return Page(url, title, date, text, found)


def checked(value: Any) -> Page:
    """A page that was JSON on the way, in another process or in the cache. Raises ValueError for anything else."""
    if not isinstance(value, dict) or set(value) != set(Page._fields):
        raise ValueError("no page")
    page = Page(**value)
    texts = [page.url, page.text, *(text for text in (page.title, page.date) if text is not None)]
    if not isinstance(page.links, list) or not all(isinstance(text, str) for text in (*texts, *page.links)):
        raise ValueError("a page's fields are texts, and its links a list of texts")
    return page


def decode(body: bytes, charset: str | None) -> str:
    """Bytes as text, by byte order mark, header, <meta>, or the first charset that fits."""
    declared = [name for mark, name in MARKS if body.startswith(mark)]
    meta = META.search(body[:2048])
    declared += [name for name in (charset, meta and meta[1].decode()) if name]
    names = [
        "cp1252" if ASCII.fullmatch(name) else name
        for name in declared
        if name == "utf-8-sig" or CHARSETS.fullmatch(name)
    ]
    for name in (*names, "utf-8", "cp1252"):
        try:
            return body.decode(name)
        except (UnicodeError, LookupError):
            continue
    return body.decode("utf-8", "replace")


def extract(source: str, url: str) -> tuple[str | None, str | None, str]:
    """Title, date and main text of HTML. Raises MachineError if trafilatura is not installed, PageError."""
    try:
        import trafilatura
    except ImportError:
        raise MachineError(f"trafilatura is not installed; {install('scrape')}") from None
    try:
        found: Any = trafilatura.bare_extraction(source, url=url, include_comments=False, with_metadata=True)
    except Exception as error:  # a parser's own error on a malformed page
        raise PageError(f"its HTML cannot be read ({type(error).__name__})") from None
    if not found:
        return None, None, ""
    return found.title, found.date, found.text or ""


def links(source: str, target: Target) -> list[str]:
    """The pages of the same host that a page links to, except those marked nofollow."""
    from lxml import etree, html

    try:
        tree = html.document_fromstring(source.encode(), parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, etree.XMLSyntaxError, ValueError):
        return []
    try:
        base = follow(target.url, next(iter(tree.xpath("//base/@href")), "")).url
    except Refused:
        return []
    found: dict[str, None] = {}
    for anchor in tree.iter("a"):
        if "nofollow" in (anchor.get("rel") or "").lower():
            continue
        try:
            link = follow(base, anchor.get("href") or "")
        except Refused:
            continue
        if link.origin == target.origin:
            found[link.url] = None
    return list(found)
