"""`python -m microgpt` is `microgpt`."""

from __future__ import annotations

import os
import sys

from microgpt.signals import NO_THREADS, Terminated, can_start_threads, raise_on_signal


def script() -> None:
    """The entry point of the installed command; a signal is answered in one line while it still imports, too."""
    status: int | str | None
    try:
        with raise_on_signal():
            from microgpt.cli import main

            status = main()
    except KeyboardInterrupt as error:
        status = 143 if isinstance(error, Terminated) else 130
        sentence = "interrupted"
        if status == 130 and not can_start_threads():
            status, sentence = 5, NO_THREADS
        from microgpt.terminal import say

        say(f"microgpt: {sentence}")
    except SystemExit as error:
        status = error.code
    if "WORLD_SIZE" in os.environ and isinstance(status, int):
        from microgpt.engines.processes import end

        end(status)
    sys.exit(status)


if __name__ == "__main__":
    script()
