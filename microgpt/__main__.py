"""`python -m microgpt` is `microgpt`."""

from __future__ import annotations

import sys

from microgpt.signals import Terminated, raise_on_signal


def script() -> None:
    """The entry point of the installed command; a signal is answered in one line while it still imports, too."""
    try:
        with raise_on_signal():
            from microgpt.cli import main

            status = main()
    except KeyboardInterrupt as error:
        status = 143 if isinstance(error, Terminated) else 130
        print("microgpt: interrupted", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    script()
