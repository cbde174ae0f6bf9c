"""microgpt data list | fetch | scrape | tokenize"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from microgpt import __version__, files
from microgpt.commands import Switch
from microgpt.commands.flags import Flags, ReadingFlags, require
from microgpt.data import datasets
from microgpt.errors import MachineError, UsageError, install
from microgpt.limits import MAX_COUNT
from microgpt.terminal import output, output_json, output_table, say

USER_AGENT = f"microgpt/{__version__} (collects text to train a small language model)"

app = App(name="data", help="List, download, scrape and tokenize data.")


@app.command(name="list")
def list_datasets(*, json: Switch = False) -> None:
    """List the data sets and their files on this machine.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, facts in datasets.DATASETS.items():
        path = datasets.locate(name)
        rows[name] = {"about": facts.about, "bytes": facts.size, "licence": facts.licence, "path": path and str(path)}
    rows[datasets.PYDOCS] = {
        "about": "Python's documentation, read from this Python",
        "bytes": len(datasets.pydocs().encode()),
        "licence": "PSF",
        "path": "(in this Python)",
    }
    if json:
        output_json(rows)
        return
    columns = [{"header": name} for name in ("name", "about", "bytes", "licence")]
    drawn = [
        (name, row["about"], f"{row['bytes']:,}", row["licence"], row["path"] or "not here: microgpt data fetch")
        for name, row in rows.items()
    ]
    output_table([*columns, {"header": "path", "overflow": "fold"}], drawn)  # the path whole, for copying


@app.command
def fetch(name: str) -> None:
    """Download a data set into the cache and verify its SHA-256.

    Parameters
    ----------
    name
        Data set (microgpt data list).
    """
    output(datasets.fetch(name))


@app.command
def scrape(
    *urls: str,
    url_file: Path | None = None,
    out: Path = Path("corpus.jsonl"),
    depth: int = 0,
    max_pages: int = 1000,
    max_bytes: int = 5_000_000,
    page_seconds: float = 30.0,
    allow_private: Annotated[list[str] | None, Parameter(negative="")] = None,
    allow_partial: Switch = False,
    cache: bool = True,
    json: Switch = False,
) -> None:
    """Scrape the main text of web pages into a JSONL corpus: text, title, URL and date, one page per line.

    Obeys robots.txt, sends each host one request per second, and connects to public addresses only.

    Parameters
    ----------
    urls
        The pages.
    url_file
        A file of URLs, one per line; # begins a comment.
    out
        The corpus, as JSONL; a new file.
    depth
        Depth to which links on the same host are followed.
    max_pages
        Maximum number of pages, where links are followed.
    max_bytes
        Maximum bytes per page, after decompression.
    page_seconds
        Maximum seconds to fetch a page, and again to parse it.
    allow_private
        HOST or HOST:PORT of your own network to open ([::1]:PORT for IPv6); repeatable.
    allow_partial
        Write the corpus even if pages failed.
    cache
        Cache pages, and reuse cached ones.
    json
        Print the report as one JSON object.
    """
    require("--depth", depth, 0, MAX_COUNT)
    require("--max-pages", max_pages, 1, MAX_COUNT)
    crawl = crawler(allow_private or [], cache, max_bytes, page_seconds, depth=depth, max_pages=max_pages)
    from microgpt.data.scrape.crawl import scrape as write

    report = write(crawl, named_urls(urls, url_file), out, allow_partial=allow_partial)
    if json:
        output_json({"path": str(out), **dataclasses.asdict(report)})
    else:
        output(out)


@app.command
def tokenize(
    source: str,
    *,
    tokenizer: str,
    out: Path,
    part: str = "1/1",
    processes: int = 0,
    json: Switch = False,
    reading: Annotated[ReadingFlags, Flags] = ReadingFlags(),  # type: ignore[valid-type]
) -> None:
    """Tokenize a text into a folder of shards, which --data trains on without the text.

    Several machines share the work: each makes one part, in a folder that all see.

    Parameters
    ----------
    source
        Text file, folder or glob.
    tokenizer
        tokenizer.json, or with one part a kind that is learnt from the text (char, word, bpe).
    out
        The folder of shards, new or with other parts of the same text.
    part
        I/N makes part I of N.
    processes
        Processes that tokenize; 0 takes one per core. The tokens are the same for any number.
    json
        Print one JSON object.
    """
    require("--processes", processes, 0, 1024)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < i <= n:
        raise UsageError(f"--part: must be I/N with I from 1 to N, got {part}")
    from microgpt.commands.progress import TrainingProgress
    from microgpt.config import Config
    from microgpt.data.conversations import is_chat
    from microgpt.data.documents import read_documents
    from microgpt.data.encode import learn
    from microgpt.data.shards import write_part
    from microgpt.tokenizers import KINDS

    given = {key: value for key, value in dataclasses.asdict(reading).items() if value is not None}
    data = Config.from_dict({"data": {**given, "path": source, "tokenizer": tokenizer}}, "flags").data
    if n > 1 and tokenizer in KINDS:
        raise UsageError(f"--tokenizer {tokenizer}: parts need the same tokenizer; name a tokenizer.json")
    if is_chat(data):
        raise UsageError(f"{source}: conversations, whose rows depend on the context; train on the file itself")
    documents = read_documents(data, hold=False)
    progress = TrainingProgress(out).reading
    with files.disk("be written", out):
        learnt = learn(data, documents.texts, sum(source.size for source in documents.sources))
        made = write_part(documents, learnt, out, i, n, processes=processes, progress=progress)
    missing = [k for k in range(1, n + 1) if not (out / f"part-{k}-of-{n}").is_dir()]
    if json:
        output_json({"path": str(out), "part": str(made), "missing": missing})
    else:
        output(made)
        for k in missing[:1]:
            say(f"next    microgpt data tokenize … --part {k}/{n}: {len(missing)} of {n} parts are missing")


def named_urls(urls: tuple[str, ...] | list[str], url_file: Path | None) -> list[str]:
    """The URLs of a command. Raises UsageError if there are none, DataError."""
    from microgpt.data.scrape.crawl import read_urls

    found = [*urls, *(read_urls(url_file) if url_file else [])]
    if not found:
        where = f"{url_file}: no URL in it" if url_file else "no URL"
        raise UsageError(f"{where}; name pages, or a file of them with --url-file")
    return found


def crawler(
    allow_private: list[str], cache: bool = True, max_bytes: int = 5_000_000, page_seconds: float = 30.0, **links: Any
) -> Any:
    """A crawl of the web that prints its progress; `links` are Crawl's depth and max_pages.

    Raises UsageError, MachineError.
    """
    require("--max-bytes", max_bytes, 1, MAX_COUNT)
    require("--page-seconds", page_seconds, 0.001, 86_400)
    for module in ("httpcore2", "idna", "protego", "trafilatura"):
        if importlib.util.find_spec(module) is None:  # importing takes a second, and is the worker's
            raise MachineError(f"{module} is not installed; {install('scrape')}")
    from microgpt.data.scrape.addresses import Gate, Refused
    from microgpt.data.scrape.crawl import Crawl, web_cache
    from microgpt.data.scrape.fetch import Fetcher, Limits

    try:
        gate = Gate(allow_private)
    except Refused as error:
        raise UsageError(f"--allow-private: {error}") from None
    fetcher = Fetcher(gate, Limits(max_bytes, page_seconds), user_agent=USER_AGENT)
    return Crawl(fetcher, cache=web_cache() if cache else None, log=say, **links)
