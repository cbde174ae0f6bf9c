"""The page beside a training: `microgpt serve` of its run folder in a process of its own, from the first step on."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

from microgpt.terminal import has_reader, say

FIRST = "listening on "  # what the service says first


class Page:
    """A page that `open` brings up, once; on a terminal it stays after the training until Ctrl-C."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._process: subprocess.Popen[str] | None = None

    def open(self) -> None:
        """Begin the service, tell its address when it answers, and show it in a browser if a person is there."""
        if self._process:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "microgpt", "serve", str(self.out), "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is the training's
        )
        threading.Thread(target=self._tell, args=(self._process,), daemon=True).start()

    def _tell(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        line = process.stdout.readline()
        if not line.startswith(FIRST):
            say(f"watch   the page cannot be shown; microgpt serve {self.out} says why")
            return
        address = f"{line.removeprefix(FIRST).strip()}/#/watch/{quote(self.out.resolve().name)}"
        say(f"watch   {address}")
        if has_reader():
            from webbrowser import open as show

            show(address)

    def close(self, *, stay: bool) -> None:
        """End the service; with `stay`, after Ctrl-C."""
        process = self._process
        if not process:
            return
        try:
            if stay and process.poll() is None:
                say("watch   the page stays; Ctrl-C ends it")
                process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
