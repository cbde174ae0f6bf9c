"""microgpt train"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands import ProcessesFlag, ShardFlag, Switch, recipe
from microgpt.commands.flags import ConfigFlags, Flags, as_configuration, base, given, require, resolve, run_name
from microgpt.commands.launch import end_if_lost, is_led
from microgpt.commands.progress import TrainingProgress
from microgpt.commands.side_by_side import refuse_with_seeds, train_seeds
from microgpt.commands.watch import Page
from microgpt.config import SCHEDULE, Config
from microgpt.engines.processes import environment
from microgpt.errors import MachineError, MicrogptError, NumericError, Stopped, UsageError, install
from microgpt.limits import MAX_COUNT
from microgpt.runs.folder import RunFolder, last_folder, new_folder
from microgpt.scenarios import scenarios
from microgpt.terminal import SampleWriter, has_reader, output, output_json, say
from microgpt.training import trackers


def train(
    source: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *,
    out: Path | None = None,
    config: Path | None = None,
    size: str | None = None,
    resume: Switch = False,
    extend: int | None = None,
    stop_at: int | None = None,
    time: str | None = None,
    max_time: str | None = None,
    urls: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    url_file: Path | None = None,
    allow_private: Annotated[list[str] | None, Parameter(negative="")] = None,
    allow_partial: Switch = False,
    verify: Switch = False,
    no_tune: Switch = False,
    seeds: int | None = None,
    watch: Switch = False,
    processes: ProcessesFlag = None,
    shard: ShardFlag = None,
    log: trackers.Kind | None = None,
    verbose: Switch = False,
    json: Switch = False,
    settings: Annotated[ConfigFlags, Flags] = ConfigFlags(),  # type: ignore[valid-type]
) -> None:
    """Train a model on a scenario or a text file.

    Parameters
    ----------
    source
        Scenario (default: names), text (a file, folder, glob, or - for standard input), or a run.toml as with --config.
    out
        Run folder (default: runs/NAME, numbered if taken).
    config
        TOML file with settings, such as a copy of a scenario (microgpt scenarios show NAME); flags override it.
    size
        nano (5 K parameters; 1,000 steps take under a second on two cores), micro (31 K; 1 s), mini (0.2 M; 5 s),
        small (0.8 M; 1 min) or medium (11 M; 45 min); sets width, depth, heads, context, learning rate and batch.
    resume
        Continue from the newest checkpoint; the result is bit-identical. --steps sets a new total.
    extend
        Continue a finished run for this many steps, with the schedule that flags set or at its last learning rate;
        a schedule that ends at 0 needs --learning-rate.
    stop_at
        Save and end at this step; the learning-rate schedule stays that of --steps.
    time
        Choose format, tokenizer, shape, rate and so on for this text, machine and time, and end with it (a text's
        default: 2m). Flags override choices. With --steps, --epochs or --config, and for a text of names or words (one
        short line each), nothing is chosen unless --time is given.
    max_time
        End within this time, and the learning-rate schedule with it: seconds, or 90s, 30m, 1h30m.
    urls
        Web pages to train on, one document per line of text (microgpt data scrape has more options).
    url_file
        File of URLs, one per line; # begins a comment.
    allow_private
        HOST or HOST:PORT of your own network to open; repeatable.
    allow_partial
        Train even if pages failed.
    verify
        Hash a long text even if its files have kept their sizes and times since the last run.
    no_tune
        Do not measure which sizes suit this CPU (5 s, once, before a run of a minute or more).
    seeds
        Train this many models side by side that differ in --seed alone, as runs in the folder --out (default:
        runs/NAME-seeds); each is bit-equal to its own run (--no-deterministic: a GPU trains them as one, equal up to
        rounding). The same command goes on after any end.
    watch
        Open the page that shows the training while it runs (it needs the extra serve).
    processes
        Processes that train the model together on this machine, or auto for one per GPU; the result is the same.
    shard
        optimizer: each process keeps a part of Adam's moments, which saves memory.
    log
        Pass the metrics on: tensorboard (files in the run folder; needs the extra tensorboard) or trackio.
    verbose
        Print the whole configuration, which run.toml in the run folder holds as well.
    json
        Print the result as one JSON object.
    """
    began = monotonic()
    if seeds is not None:
        alone = {"--resume": resume, "--extend": extend is not None, "--stop-at": stop_at is not None}
        alone |= {"--time": time is not None, "--max-time": max_time is not None, "--watch": watch}
        alone |= {"--processes": processes is not None, "--shard": shard is not None}
        refuse_with_seeds(seeds, alone | {"--log": log is not None, "--verbose": verbose})
    if is_led(processes):
        return
    flags = given(settings)
    if extend is not None:
        require("--extend", extend, 1, MAX_COUNT)
    limit = None if max_time is None else seconds(max_time)
    chosen_for = None if time is None else seconds(time, "--time")
    if given_config := as_configuration(source):
        if config:
            raise UsageError(f"SOURCE {source} and --config {config}: two configurations; leave one out")
        source, config = None, given_config
    _one_text(source, flags["data"], bool(urls or url_file))
    if urls or url_file:
        if resume or extend is not None:
            raise UsageError("--urls: a resumed run has its text; leave it out")
        text = _scraped(urls or [], url_file, allow_private or [], allow_partial)
        flags["data"] |= {"path": str(text)}
        source = source or str(text)
    resume = resume or extend is not None
    if time is not None and (resume or source in (None, *scenarios())):
        raise UsageError("--time: chooses for a text, and a resumed run or a scenario has its choices; use --max-time")
    if resume:
        from microgpt.training.resume import resumed

        out = out or last_folder(run_name(source or "names"))
        if config or size:
            named = f"SOURCE {config}" if given_config else "--config" if config else "--size"
            raise UsageError(f"{named}: a resumed run has its run.toml; leave it out")
        resolved = resumed(out, _of_source(source, flags, out), extend)
    else:
        resolved = resolve(source, config, flags, size)
        chosen = recipe.choose(source, resolved, config, flags, size, chosen_for, limit)
        if chosen:
            resolved = resolve(source, config, flags, size, chosen.layer)
            limit = min((each for each in (limit, chosen.seconds) if each is not None), default=None)
        if any(key in SCHEDULE for key in flags["optim"]):  # a new schedule is that of the whole run
            resolved = resolved.model_copy(update={"schedule_from": 0, "phases": ()})
        if seeds is not None:
            if chosen and chosen.seconds is not None:
                raise UsageError("--seeds: the runs take as many steps each; say how many with --steps or --epochs")
            switches = [flag for flag, given in {"--verify": verify, "--no-tune": no_tune}.items() if given]
            train_seeds(resolved, seeds, out or Path("runs") / f"{resolved.name}-seeds", switches, json)
            return
        out = out or new_folder(resolved.name)
    options: dict[str, Any] = {
        "resume": resume,
        "stop_at": stop_at,
        "verify": verify,
        "shard": shard is not None,
        "log": log,
        "tune": not no_tune,
    }
    if limit is not None:
        limit = max(0.1, limit - (monotonic() - began))
    result = run_and_report(resolved, out, limit, verbose, json, watch=watch, **options)
    if json:
        output_json(result)


def _one_text(source: str | None, data: Mapping[str, Any], urls: bool) -> None:
    """Raise UsageError where the text is named in two ways; beside a scenario one way is allowed."""
    ways = {
        f"SOURCE {source}": source is not None and source not in scenarios(),
        "--urls": urls,
        "--data": "path" in data,
        "--dataset": "dataset" in data,
    }
    named = [way for way, given in ways.items() if given]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)}: each names the text to train on; leave all but one out")


def _of_source(source: str | None, flags: dict[str, dict[str, Any]], out: Path) -> dict[str, dict[str, Any]]:
    """The flags of a resumed run, with the text that SOURCE names; its content is compared later.

    Raises CheckpointError for another scenario than the run's.
    """
    from microgpt.training.resume import other_run

    if source is None:
        return flags
    named = base(source)["data"]
    if source not in scenarios():
        return {**flags, "data": {**flags["data"], **named}}
    run = RunFolder(out).config()
    if source != run.name and (run.data.dataset is None or run.data.dataset != named.get("dataset")):
        raise other_run(out, "SOURCE", f" ({run.name!r} then, {source!r} now)")
    return flags


def _scraped(urls: list[str], url_file: Path | None, allow_private: list[str], allow_partial: bool) -> Path:
    """The text of pages as a file in the cache, named by the first page's host and the list. Raises MicrogptError."""
    from microgpt.commands.data import crawler, named_urls

    pages = named_urls(urls, url_file)
    crawl = crawler(allow_private)
    from microgpt.data.scrape.crawl import as_text, scrape, text_file

    out = text_file(pages)
    scrape(crawl, pages, out, allow_partial=allow_partial, line=as_text, replace=True)
    return out


def run_and_report(
    config: Config,
    out: Path,
    max_time: float | None,
    verbose: bool,
    as_json: bool,
    watch: bool = False,
    log: trackers.Kind | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, with progress and the next command on stderr and samples on stdout unless `as_json`.

    `options` are those of training.train.train. Returns the result, ready for JSON.
    """
    from microgpt.training.train import train as train_run

    if log:
        trackers.require(log)
    page = page_of(out) if watch else None
    tracker = trackers.Tracker(log, out) if log and not environment()[0] else None
    again = shlex.join(["microgpt", "train", "--resume", "--out", str(out)])
    try:
        with TrainingProgress(out, verbose, page.open if page else None, tracker) as callbacks:
            result = train_run(config, out, max_time=max_time, callbacks=callbacks, **options)
    except BaseException as error:
        if page:
            page.close(stay=False)
        if isinstance(error, MicrogptError):
            end_if_lost(error)
        started = isinstance(error, MicrogptError) and (isinstance(error, Stopped) or callbacks.tokens)
        if started and not isinstance(error, NumericError):  # it would fail at the same step again
            say(f"resume  {again}")
        raise
    writer = SampleWriter()
    for sample in [] if as_json else result.samples:
        output(sample) if result.verb == "chat" else writer.write([sample])  # exchanges end with an empty line
    if not result.finished:
        say(f"resume  {again}")
    else:
        say(f"try     {shlex.join(['microgpt', result.verb, str(out)])}")
    if page:
        page.close(stay=has_reader())
    return {**dataclasses.asdict(result), "path": str(result.path)}


def page_of(out: Path) -> Page:
    """The page of a run. Raises MachineError where the service is not installed."""
    from importlib.util import find_spec

    for name in ("uvicorn", "starlette"):
        if not find_spec(name):
            raise MachineError(f"--watch needs {name}, which is not installed; {install('serve')}")
    return Page(out)


def seconds(text: str, flag: str = "--max-time") -> float:
    """The seconds in a length of time: 90, 90s, 30m, 1h30m, 2d. Raises UsageError."""
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    total = (
        sum(float(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)) if found else 0
    )
    if not 0 < total <= 1e9:  # 30 years
        raise UsageError(f"{flag} {text!r}: expected seconds or a length such as 90s, 30m or 1h30m")
    return total
