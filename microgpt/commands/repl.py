"""The conversation in the terminal: read a line, generate the answer, print it, loop."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from microgpt import files
from microgpt.commands.flags import SamplingFlags
from microgpt.commands.selection import checkpoint_json
from microgpt.data.conversations import Message
from microgpt.errors import DataError, MicrogptError, UsageError
from microgpt.inference.chat import ChatModel
from microgpt.inference.language_model import Completion
from microgpt.limits import MAX_COUNT, MAX_REAL
from microgpt.terminal import output, output_json, say

HELP = """\
/help               list the commands; /? does too
/clear              begin a new conversation
/system [TEXT]      set the system message and begin a new conversation; without TEXT, remove it
/temperature [T]    0 always takes the likeliest token
/topk [K]           draw from the K likeliest tokens; 0 is off
/save FILE          append the conversation to FILE (JSONL, as microgpt finetune --data reads it)
/quit               leave; /bye and Ctrl-D do too. Ctrl-C stops a reply"""
LEAVING = ("quit", "exit", "/quit", "/exit", "/bye")


class Repl:
    """A conversation: its messages so far, and the sampling of the next answer."""

    def __init__(self, model: ChatModel, flags: SamplingFlags, *, system: str | None, json: bool) -> None:
        self.model, self.system, self.json = model, system, json
        self.flags, self.sampling, self.seed = flags, flags.of(model), flags.new_seed()
        self.rng = model.rng(self.seed)
        self.max_tokens, self.stops = flags.max_tokens, flags.stops
        self.messages: list[Message] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: say(HELP, lines=True),
            "?": lambda _: say(HELP, lines=True),
            "clear": lambda _: self.clear(),
            "system": self.set_system,
            "temperature": self.set_temperature,
            "topk": self.set_top_k,
            "save": self.save,
        }

    def loop(self) -> None:
        """Read and answer lines until /quit or the end of the input.

        On a terminal Ctrl-C stops the answer or empties the line, and an error ends nothing. Elsewhere a message
        that cannot be answered ends the conversation, a command that fails does not.
        """
        interactive = sys.stdin.isatty()
        if interactive:
            line_editing()
            say(f"chat with {self.model.path}; /help lists the commands, Ctrl-D leaves")
        while True:
            line = ""
            try:
                line = (input("> ") if interactive else input()).strip()
                if line.lower() in LEAVING:
                    return
                if line.lower() == "clear":
                    line = "/clear"
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.ask(line)
            except EOFError:
                if interactive:
                    output("")
                return
            except KeyboardInterrupt:
                if not interactive:
                    raise
                output("")
            except MicrogptError as error:
                if not interactive and not line.startswith("/"):
                    raise
                say(f"microgpt: {error}")

    def end(self) -> None:
        """Print the seed of the conversation where it was not given."""
        self.flags.say_seed(self.seed, self.sampling)

    def command(self, line: str) -> None:
        """Run a line that begins with /. Raises UsageError for an unknown command."""
        word, _, rest = line[1:].partition(" ")
        if word.lower() not in self.commands:
            raise UsageError(f"/{word}: no such command; /help lists them")
        self.commands[word.lower()](rest.strip())

    def ask(self, text: str) -> None:
        """Add a message and print its answer while it is generated; a stopped answer stays in the conversation."""
        asked = [*self.messages, Message("user", text)]
        reply = self.model.reply(
            [*self._system(), *asked], self.sampling, self.rng, max_tokens=self.max_tokens, stops=self.stops
        )
        if reply.tokens_dropped and not self.json:
            say(f"note    too long for the context: the first {reply.tokens_dropped} tokens are left out")
        try:
            self.show(reply)
        finally:
            if reply.text:
                self.messages = [*asked, Message("assistant", reply.text)]

    def show(self, reply: Completion) -> None:
        """Print an answer, piece by piece or as one JSON object."""
        if not self.json:
            for piece in reply:
                output(piece, end="", flush=True)
            output("", flush=True)
            return
        answer = {
            "role": "assistant",
            "content": reply.read(),
            "tokens_dropped": reply.tokens_dropped,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "finish_reason": reply.finish_reason,
            "checkpoint": checkpoint_json(self.model.selection),
        }
        output_json(answer)

    def clear(self) -> None:
        """Begin a new conversation."""
        self.messages = []
        say("a new conversation")

    def set_system(self, text: str) -> None:
        """Set the system message and begin a new conversation."""
        if text and "system" not in self.model.tokenizer.special:
            raise UsageError("/system: this model knows no system messages")
        self.system = text or None
        self.clear()

    def set_temperature(self, text: str) -> None:
        """Set the temperature, or print it."""
        if text:
            value = _number(text, float, "/temperature", MAX_REAL)
            self.sampling = dataclasses.replace(self.sampling, temperature=value)
        say(f"temperature {self.sampling.temperature:g}")

    def set_top_k(self, text: str) -> None:
        """Set top-k, or print it."""
        if text:
            value = int(_number(text, int, "/topk", MAX_COUNT))
            self.sampling = dataclasses.replace(self.sampling, top_k=value)
        say(f"topk {self.sampling.top_k}")

    def save(self, name: str) -> None:
        """Append the conversation to a file, as a line of JSON."""
        if not name:
            raise UsageError("/save: needs the name of a file")
        if not self.messages:
            raise DataError("/save: the conversation is empty")
        messages = [message._asdict() for message in [*self._system(), *self.messages]]
        path = Path(name).expanduser()
        with files.disk("be written", path):
            files.append_bytes(path, files.to_json(messages, indent=None))
        say(f"saved   {path}")

    def _system(self) -> list[Message]:
        return [Message("system", self.system)] if self.system else []


def _number(text: str, kind: type[int] | type[float], command: str, most: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise UsageError(f"{command} {text}: must be 0 to {most:,.0f}")
    return value


def line_editing() -> None:
    """Arrow keys and a history for `input`, and completion of /commands by Tab, where the system has readline."""
    try:
        import readline
    except ImportError:  # Windows: its console edits lines itself
        return
    words = [line.split()[0] for line in HELP.splitlines()]

    def complete(begun: str, n: int) -> str | None:
        return [*(word for word in words if begun.startswith("/") and word.startswith(begun)), None][n]

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
