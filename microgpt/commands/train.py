"""microgpt train"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands.flags import DataFlags, ModelFlags, OptimFlags, RunFlags, given, resolve, run_name
from microgpt.config import SCHEDULE, Config
from microgpt.errors import MicrogptError, UsageError
from microgpt.runfolder import RunFolder, last_folder, new_folder
from microgpt.terminal import Terminal, for_stdout, say

Flags = Parameter(name="*")


def train(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)] = "names",
    *,
    out: Path | None = None,
    config: Path | None = None,
    size: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    extend: int | None = None,
    stop_at: int | None = None,
    max_time: str | None = None,
    urls: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    url_file: Path | None = None,
    allow_private: Annotated[list[str] | None, Parameter(negative="")] = None,
    allow_partial: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    model: Annotated[ModelFlags, Flags] = ModelFlags(),  # type: ignore[valid-type]
    optim: Annotated[OptimFlags, Flags] = OptimFlags(),  # type: ignore[valid-type]
    data: Annotated[DataFlags, Flags] = DataFlags(),  # type: ignore[valid-type]
    run: Annotated[RunFlags, Flags] = RunFlags(),  # type: ignore[valid-type]
) -> None:
    """Train a model on a scenario or a text file.

    Parameters
    ----------
    source
        A scenario's name, or text: a file, folder, glob, or - for standard input.
    out
        The run's folder (default: runs/NAME, numbered if it is taken).
    config
        A TOML file over the scenario; flags go over both.
    size
        nano, micro, mini, small or medium: sets width, depth, heads, context, learning rate and batch.
    resume
        Go on from the newest checkpoint of the run, to the very same end; --steps then is a new total.
    extend
        Go on with a finished run for this many more steps, at the learning rate where it ended; flags of the
        schedule (--learning-rate, --schedule, …) set another one from there.
    stop_at
        Save and end at this step, while the schedule stays that of --steps.
    max_time
        Save and end in time: seconds, or 90s, 30m, 1h30m.
    urls
        Pages of the web to train on instead, line by line (microgpt data scrape has more to choose).
    url_file
        A file of such pages, one a line; # begins a comment.
    allow_private
        HOST or HOST:PORT of your own network that such pages may come from; can be given again.
    allow_partial
        Train even if some of the pages failed.
    json
        Print the result as one JSON object.
    """
    flags = given(model=model, optim=optim, data=data, run=run)
    if urls or url_file:
        if resume or extend is not None:
            raise UsageError("--urls: a run that goes on has its text; leave it out")
        text = _scraped(urls or [], url_file, allow_private or [], allow_partial)
        flags["data"] |= {"path": str(text)}
        source = str(text) if source == "names" else source
    resume = resume or extend is not None
    if resume:
        from microgpt.resume import resumed

        out = out or last_folder(run_name(source))
        if config or size:
            raise UsageError(
                f"--{'config' if config else 'size'}: a run that goes on has its own run.toml; leave it out"
            )
        resolved = resumed(out, flags, extend)
    else:
        resolved = resolve(source, config, flags, size)
        if any(key in SCHEDULE for key in flags["optim"]):  # another schedule is one of the whole run
            resolved = resolved.model_copy(update={"schedule_from": 0, "earlier": ()})
        out = out or new_folder(resolved.name)
    again = shlex.join(["microgpt", "train", source, "--resume", "--out", str(out)])
    result = run_and_tell(resolved, out, again, resume=resume, stop_at=stop_at, max_time=max_time, as_json=json)
    if json:
        print(jsonlib.dumps(result))


def _scraped(urls: list[str], url_file: Path | None, allow_private: list[str], allow_partial: bool) -> Path:
    """The text of pages as a file in the cache, named by the first page's host and the list. Raises MicrogptError."""
    from microgpt.commands.data import crawler, named_urls

    pages = named_urls(urls, url_file)
    crawl = crawler(allow_private=allow_private)
    from microgpt.scrape.crawl import as_text, scrape, text_file

    out = text_file(pages)
    scrape(crawl, pages, out, allow_partial=allow_partial, line=as_text)
    return out


def run_and_tell(
    config: Config,
    out: Path,
    again: str,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    max_time: str | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Train with a report on stderr; samples on stdout unless `as_json`; say what to do next, `again` to go on."""
    from microgpt.resume import seconds
    from microgpt.training import train as train_run

    limit = None if max_time is None else seconds(max_time)
    try:
        with Terminal() as report:
            result = train_run(config, out, resume=resume, stop_at=stop_at, max_time=limit, report=report)
    except MicrogptError:
        if RunFolder(out).config_file.is_file():
            say(f"go on   {again}")
        raise
    for sample in [] if as_json else result.samples:
        print(for_stdout(sample))
    if result.step < config.run.steps and not result.stopped_early:
        say(f"go on   {again}")
    else:
        say(f"try     {shlex.join(['microgpt', result.verb, str(out)])}")
    return _result(result)


def _result(result: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(result), "path": str(result.path)}
