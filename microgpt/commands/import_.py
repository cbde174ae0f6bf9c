"""microgpt import"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from microgpt.commands import Switch


def import_(path: Path, *, out: Path, json: Switch = False) -> None:
    """Import a model of another program.

    Parameters
    ----------
    path
        muchq's folder, kgx's model.json, or a Hugging Face folder of the architecture Arcee or NanoChat.
    out
        The model folder to write.
    json
        Print the result as one JSON object.
    """
    from microgpt.formats.imports import import_model
    from microgpt.terminal import output, output_json, say

    done = import_model(path, out)
    if json:
        output_json({**dataclasses.asdict(done), "path": str(done.path)})
        return
    output(done.path)
    say(f"read    {done.source}: {done.n_params:,} parameters, vocabulary {done.vocab_size}, step {done.step}")
    for note in done.notes:
        say(f"note    {note}")
    say(f"try     microgpt generate {done.path}")
