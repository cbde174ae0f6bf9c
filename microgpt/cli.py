"""The command line: one verb, one function, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import get_args

from cyclopts import App, ArgumentCollection, CycloptsError, MissingArgumentError, UnusedCliTokensError

from microgpt import __version__
from microgpt.commands import command_line
from microgpt.errors import INFERENCE_ONLY, MicrogptError, UsageError
from microgpt.signals import NO_THREADS, Terminated, can_start_threads, raise_on_signal
from microgpt.terminal import say


def _whole(app: App, words: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise UsageError for a fraction where an integer is expected; cyclopts would round it."""
    for argument in arguments:
        for token in argument.tokens if int in (argument.hint, *get_args(argument.hint)) else ():
            with suppress(ValueError):  # not a number: cyclopts reports it
                if "." in token.value and not float(token.value).is_integer():
                    raise UsageError(f"{token.keyword or argument.name}: must be a whole number, got {token.value}")


app = App(
    name="microgpt",
    help="Learn, train and use small GPTs on the machine you have.",
    help_epilogue="Every command takes --debug, which shows the traceback of an error.",
    version=__version__,
    help_format="plaintext",  # parsing Markdown takes a fifth of the time of --help
    config=_whole,  # called with the arguments of every command before they are converted
    suppress_keyboard_interrupt=False,  # else it ends the process silently, and SIGTERM like Ctrl-C
)
app.command("microgpt.commands.train:train", name="train", help="Train a model on a scenario or a text file.")
app.command("microgpt.commands.generate:generate", name="generate", alias="sample", help="Generate text.")
app.command("microgpt.commands.chat:chat", name="chat", help="Chat with a model.")
app.command("microgpt.commands.finetune:finetune", name="finetune", help="Continue training a model on new data.")
app.command("microgpt.commands.sweep:sweep", name="sweep", help="Train many runs and find the best settings.")
app.command(
    "microgpt.commands.scaling:scaling",
    name="scaling",
    help="Train several sizes, and predict the loss of larger ones.",
)
app.command("microgpt.commands.eval:evaluate", name="eval", help="Measure a model on held-out or other text.")
app.command("microgpt.commands.serve:serve", name="serve", help="Serve models over HTTP.")
app.command("microgpt.commands.scenarios:app", name="scenarios", help="List the scenarios, or print one.")
app.command("microgpt.commands.info:info", name="info", help="Describe a run or model folder.")
app.command("microgpt.commands.compare:compare", name="compare", help="Compare runs: figures, settings and curves.")
app.command("microgpt.commands.runs:app", name="runs", help="List, compare, plot and remove many runs.")
app.command("microgpt.commands.export:export", name="export", help="Export a model for other programs.")
app.command("microgpt.commands.import_:import_", name="import", help="Import a model of another program.")
app.command("microgpt.commands.bench:bench", name="bench", help="Measure how fast engines train.")
app.command("microgpt.commands.doctor:doctor", name="doctor", help="Report the CPU, libraries and engines.")
app.command("microgpt.commands.data:app", name="data", help="List, download and scrape data.")
app.command("microgpt.commands.tokenizer:app", name="tokenizer", help="Train, apply and inspect tokenizers.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors are one line, with a traceback only after --debug."""
    _open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    command_line[:] = words
    try:
        with raise_on_signal():
            app(words, exit_on_error=False, print_error=False, result_action="return_none")
            sys.stdout.flush()  # a closed pipe can be reported here, but not when the process ends
    except MicrogptError as error:
        return _fail(str(error), error.status, error if debug else None)
    except CycloptsError as error:
        return _fail(_sentence(error), 2, error if debug else None)
    except Terminated:
        return _fail("terminated", 143, None)
    except KeyboardInterrupt:
        if not can_start_threads():  # OpenBLAS raises SIGINT then
            return _fail(NO_THREADS, 5, None)
        return _fail("interrupted", 130, None)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on
        return 141
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return 141  # rich did the same, and exits with 1
    except MemoryError as error:
        return _fail("out of memory; try a smaller model, --batch-size or --block-size", 5, error if debug else None)
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", 5, error if debug else None)
    except Exception as error:
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return _fail(NO_THREADS, 5, error if debug else None)
        hint = "" if debug else "; this is a defect of microgpt: run again with --debug and report what it prints"
        return _fail(f"{type(error).__name__}: {error}{hint}", 70, error if debug else None)
    return 0


def _open_streams() -> None:
    """Open the null device for a standard stream that the caller closed (>&-), before a file takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are no text, byte for byte


TO_NAME = {"RUN": "name a run or model folder", "NAME": "name a data set (microgpt data list shows them)"}


def _sentence(error: CycloptsError) -> str:
    """The message of an error in the arguments, in one line; of the most common ones, with the advice to mend it."""
    command = " ".join(error.command_chain or ())
    advice = f"see microgpt {command} --help"
    if isinstance(error, MissingArgumentError) and (argument := error.argument):
        if error.keyword:
            return f"{error.keyword}: needs a value; {advice}"
        name = argument.name.lstrip("-").upper() if argument.field_info.is_positional else argument.name
        return f"{command}: {name} is missing; {TO_NAME.get(name, advice)}"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        if command == "train":
            advice = "it takes one source, a scenario or a file; --data FILE trains a scenario on another file"
        return f"{command}: unexpected argument {error.unused_tokens[0]!r}; {advice}"
    text = " ".join(str(error).split())
    return INFERENCE_ONLY if text.startswith('Invalid value "int8" for --dtype') else text


def _fail(sentence: str, status: int, error: BaseException | None) -> int:
    if error is not None:
        import traceback

        say("".join(traceback.format_exception(error)).rstrip(), lines=True)
    say(f"microgpt: {sentence}")
    return status
