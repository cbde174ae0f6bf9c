"""microgpt chat"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microgpt.commands import Switch
from microgpt.commands.flags import EngineFlags, Flags, SamplingFlags
from microgpt.commands.repl import Repl
from microgpt.commands.selection import say_checkpoint
from microgpt.errors import UsageError
from microgpt.inference.chat import ChatModel
from microgpt.terminal import compiling, say


def chat(
    run: Path,
    *others: Path,
    prompt: Annotated[str | None, Parameter(alias="-p", allow_leading_hyphen=True)] = None,
    system_prompt: Annotated[str | None, Parameter(alias="--system")] = None,
    sampling: Annotated[SamplingFlags, Flags] = SamplingFlags(),
    engine: Annotated[EngineFlags, Flags] = EngineFlags(),
    json: Switch = False,
) -> None:
    """Chat with a model.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    others
        More of them with the same tokenizer; the probabilities of a token are averaged.
    prompt
        Ask this, print the answer and end; - reads it from standard input.
    system_prompt
        System message, which tells the model how to answer.
    json
        Print each answer as one JSON object.
    """
    model, notes = ChatModel.open_all([run, *others], **vars(engine), progress=compiling())
    for note in notes:
        say(f"note    {note}")
    say_checkpoint(model.selection)
    repl = Repl(model, sampling, system=system_prompt, json=json)
    if prompt is None:
        repl.loop()
        repl.end()
        return
    text = sys.stdin.read().strip() if prompt == "-" else prompt
    if not text.strip():
        raise UsageError("--prompt: is empty; expected a question")
    repl.ask(text)
    repl.end()
