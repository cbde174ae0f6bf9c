"""microgpt chat"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Annotated

from cyclopts import Parameter

from microgpt import files
from microgpt.commands.generate import check
from microgpt.commands.terminal import compiling, for_stdout, say
from microgpt.data.conversations import Message
from microgpt.errors import DataError, MicrogptError, UsageError
from microgpt.inference.chat import ChatModel
from microgpt.inference.language_model import Completion
from microgpt.inference.sampling import Sampling

HELP = """\
/help               this list
/clear              begin a new conversation
/system [TEXT]      tell the model how to answer, and begin anew; without TEXT, take it back
/temperature [T]    0 always takes the likeliest token; higher is bolder
/topk [K]           choose among the K likeliest tokens; 0 is off
/save FILE          append the conversation to FILE (JSONL, as microgpt finetune --data reads it)
/quit               leave; Ctrl-D does too. Ctrl-C stops a reply"""


def chat(
    run: Path,
    *,
    prompt: Annotated[str | None, Parameter(alias="-p", allow_leading_hyphen=True)] = None,
    system_prompt: Annotated[str | None, Parameter(alias="--system")] = None,
    temperature: Annotated[float | None, Parameter(alias="--temp")] = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    max_tokens: Annotated[int | None, Parameter(alias="--max-new-tokens")] = None,
    stop: Annotated[list[str] | None, Parameter(negative="")] = None,
    seed: int | None = None,
    engine: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Talk with a chat model.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    prompt
        Say this, print the answer and end; - reads it from standard input.
    system_prompt
        Tell the model how to answer.
    temperature
        0 always takes the likeliest token; higher is bolder (default: the model's).
    top_k
        Choose among this many likeliest tokens; 0 is off.
    top_p
        Choose among the likeliest tokens that hold this much probability; 1 is off.
    min_p
        Choose among tokens at least this likely relative to the likeliest; 0 is off.
    repetition_penalty
        Make tokens that occurred less likely; 1 is off.
    max_tokens
        The most tokens of an answer (default: what the context holds, a quarter of it at least).
    stop
        End an answer before this; may be given several times.
    seed
        The seed of the draws (default: the model's own generator, as it was left).
    engine
        The engine, or auto.
    dtype
        What it computes in, or auto.
    device
        Where it computes, or auto.
    json
        Print each answer as one JSON object.
    """
    sampling = check(temperature, top_k, top_p, min_p, repetition_penalty, 1, max_tokens, stop)
    model = ChatModel.open(run, engine=engine, dtype=dtype, device=device, progress=compiling())
    if temperature is None:
        sampling = dataclasses.replace(sampling, temperature=model.config.run.temperature)
    repl = Repl(model, sampling, model.rng(seed), system_prompt, max_tokens, stop or [], json)
    if prompt is not None:
        text = sys.stdin.read().strip() if prompt == "-" else prompt
        if not text.strip():
            raise UsageError("--prompt: is empty; say something")
        repl.say(text)
        return
    repl.loop()


class Repl:
    """A conversation in the terminal: what was said, and how the next answer is chosen."""

    def __init__(
        self,
        model: ChatModel,
        sampling: Sampling,
        rng: Random,
        system: str | None,
        max_tokens: int | None,
        stops: list[str],
        json: bool,
    ) -> None:
        self.model, self.sampling, self.rng = model, sampling, rng
        self.max_tokens, self.stops, self.json = max_tokens, stops, json
        self.system = system
        self.messages: list[Message] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: say(HELP),
            "clear": lambda _: self.clear(),
            "system": self.set_system,
            "temperature": self.set_temperature,
            "topk": self.set_top_k,
            "save": self.save,
        }

    def loop(self) -> None:
        """Read, answer, until /quit or the end of the input. Ctrl-C stops the reply or empties the line."""
        asks = sys.stdin.isatty()
        if asks:
            line_editing()
            say(f"talking with {self.model.path}; /help lists the commands, Ctrl-D leaves")
        while True:
            try:
                line = (input("> ") if asks else input()).strip()
                if line.lower() in ("quit", "exit", "/quit", "/exit"):
                    return
                if line.lower() == "clear":
                    line = "/clear"
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.say(line)
            except EOFError:
                if asks:
                    print()
                return
            except KeyboardInterrupt:
                if not asks:
                    raise
                print()
            except MicrogptError as error:
                if not asks:
                    raise
                say(f"microgpt: {error}")

    def command(self, line: str) -> None:
        """Do what a line that begins with / says."""
        word, _, rest = line[1:].partition(" ")
        if word.lower() not in self.commands:
            raise UsageError(f"/{word}: no such command; /help lists them")
        self.commands[word.lower()](rest.strip())

    def say(self, text: str) -> None:
        """Say something and print the answer while it comes; what was stopped half-way was said half-way."""
        system = [Message("system", self.system)] if self.system else []
        asked = [*self.messages, Message("user", text)]
        reply = self.model.reply(
            [*system, *asked], self.sampling, self.rng, max_tokens=self.max_tokens, stops=self.stops
        )
        if reply.tokens_dropped and not self.json:
            say(f"note    too long for the context: the first {reply.tokens_dropped} tokens are left out")
        try:
            self.show(reply)
        finally:
            if reply.text:
                self.messages = [*asked, Message("assistant", reply.text)]

    def show(self, reply: Completion) -> None:
        """Print an answer, piece by piece."""
        if self.json:
            answer = {"role": "assistant", "content": reply.read()}
            counts = {
                "tokens_dropped": reply.tokens_dropped,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "finish_reason": reply.finish_reason,
            }
            print(jsonlib.dumps({**answer, **counts}, ensure_ascii=False), flush=True)
            return
        for piece in reply:
            print(for_stdout(piece), end="", flush=True)
        print(flush=True)

    def clear(self) -> None:
        """Forget what was said."""
        self.messages = []
        say("a new conversation")

    def set_system(self, text: str) -> None:
        """Another system message, and a new conversation."""
        if text and "system" not in self.model.tokenizer.special:
            raise UsageError("/system: this model knows no system messages")
        self.system = text or None
        self.clear()

    def set_temperature(self, text: str) -> None:
        """Another temperature, or say which it is."""
        if text:
            value = _number(text, float, "/temperature", "0 or more")
            self.sampling = dataclasses.replace(self.sampling, temperature=value)
        say(f"temperature {self.sampling.temperature:g}")

    def set_top_k(self, text: str) -> None:
        """Another top-k, or say which it is."""
        if text:
            self.sampling = dataclasses.replace(
                self.sampling, top_k=int(_number(text, int, "/topk", "0 (off) or more"))
            )
        say(f"topk {self.sampling.top_k}")

    def save(self, name: str) -> None:
        """Append the conversation to a file, a line of JSON."""
        if not name:
            raise UsageError("/save: name a file")
        if not self.messages:
            raise DataError("/save: nothing was said yet")
        system = [Message("system", self.system)] if self.system else []
        line = jsonlib.dumps([message._asdict() for message in [*system, *self.messages]], ensure_ascii=False)
        path = Path(name).expanduser()
        with files.disk("be written", path):
            files.append_text(path, line + "\n")
        say(f"saved   {path}")


def _number(text: str, kind: type[int] | type[float], command: str, limits: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise UsageError(f"{command} {text}: must be {limits}")
    return value


def line_editing() -> None:
    """Arrow keys and a history for `input`, where the system has readline, and /commands by Tab."""
    try:
        import readline
    except ImportError:  # Windows: its console edits lines itself
        return
    words = [line.split()[0] for line in HELP.splitlines() if line.startswith("/")]

    def complete(begun: str, n: int) -> str | None:
        return [*(word for word in words if begun.startswith("/") and word.startswith(begun)), None][n]

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
