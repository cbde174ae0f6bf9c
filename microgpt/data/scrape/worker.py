"""The process that parses foreign pages: a page that its parser cannot finish ends the process, not the crawl.

The parsers are C code, which neither a deadline nor a signal interrupts. So pages and robots.txt are parsed in a
process of their own, which is killed at a deadline, has a memory limit, and is started again for the next page.
Messages are frames: eight bytes of length, then JSON or the page's bytes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, Any

from microgpt import files, json_text
from microgpt.data.scrape.addresses import Target
from microgpt.data.scrape.fetch import AGENT, PageError, Reply
from microgpt.data.scrape.page import Page, WrongType, checked, extract, read_page
from microgpt.errors import MachineError, MicrogptError, install

MEMORY = 2 << 30  # bytes of addresses that the process may take, where the system can limit them
MAX_ANSWER = 1 << 26  # bytes, beside eight for each byte of the page (JSON's \u0001 takes six)
START_SECONDS = 60.0  # for the imports, on a slow and busy machine
GRACE = 5.0  # seconds after its deadline at which a process ends itself that has lost its parent
LONGEST_DELAY = 1e9  # seconds, in place of a Crawl-delay that is no number
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from microgpt.data.scrape.worker import main; main()"


class Worker:
    """Reads pages and robots.txt in a process of its own, at most `seconds` each."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False

    def start(self) -> None:
        """Start the process, unless it runs; its imports take a second, in which a page can be fetched.

        Raises MachineError.
        """
        if self.process is None:
            self.ready = False
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", BOOT, json_text.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the parent, which ends this one
                )
            except OSError as error:
                raise MachineError(f"the process that parses pages cannot be started ({error.strerror})") from None

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # of what was not sent
                    assert pipe
                    pipe.close()
            process.wait()

    def page(self, reply: Reply) -> Page:
        """The main text of a page, as `read_page` has it. Raises WrongType, PageError, MachineError."""
        request = {"target": list(reply.target), "content_type": reply.content_type, "charset": reply.charset}
        answer = self._ask(request, reply.body)
        if "wrong_type" in answer:
            raise WrongType(str(answer["wrong_type"]))
        try:
            return checked(answer["page"])
        except (ValueError, KeyError):
            raise PageError("it cannot be read (the parser's answer makes no sense)") from None

    def may_fetch(self, rules: bytes, url: str) -> tuple[bool, float]:
        """Whether a robots.txt lets us fetch a URL, and the seconds between two requests that it asks for.

        Raises PageError, MachineError.
        """
        answer = self._ask({"robots": url}, rules)
        return bool(answer["allowed"]), float(answer["delay"])

    def _ask(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        try:
            process = self._running()
            with self._deadline(process, self.seconds) as late:
                data = b""
                with suppress(OSError):  # a process that ended does not read to the end
                    _send(process.stdin, files.to_json({**request, "seconds": self.seconds}, None))
                    _send(process.stdin, body)
                    data = _receive(process.stdout, MAX_ANSWER + 8 * len(body))
            if late.is_set():
                raise PageError(f"reading it takes more than {self.seconds:g} s (--page-seconds)")
            if not data:
                raise PageError(f"it cannot be read (the parser ended, status {process.wait()})")
            answer: dict[str, Any] = files.parse_json(data, "the parser's answer")
        except MicrogptError as error:
            self.close()
            raise error if isinstance(error, MachineError) else PageError(str(error)) from None
        except BaseException:  # also a signal: what the process says next would be of another page
            self.close()
            raise
        if "failed" in answer:
            raise PageError(str(answer["failed"]))
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, ready for a page. Raises MachineError."""
        self.start()
        process = self.process
        assert process
        if not self.ready:
            with self._deadline(process, START_SECONDS):
                hello = _receive(process.stdout, MAX_ANSWER)
            if not hello:
                raise MachineError("the process that parses pages does not start; free some memory")
            if missing := json.loads(hello).get("missing"):
                raise MachineError(f"{missing} is not installed; {install('scrape')}")
            self.ready = True
        return process

    @contextmanager
    def _deadline(self, process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
        """End the process if the block takes longer; then the event is set."""
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
        timer.join()


def _send(pipe: IO[bytes] | None, data: bytes) -> None:
    """Write a frame. Raises OSError."""
    assert pipe
    pipe.write(len(data).to_bytes(8, "big"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None, limit: int) -> bytes:
    """A frame, or nothing where the other side ended. Raises PageError for one of more than `limit` bytes."""
    assert pipe
    size = int.from_bytes(head := pipe.read(8), "big")
    if size > limit:
        raise PageError("it cannot be read (its text and links are too large)")
    data = pipe.read(size)
    return data if len(head) == 8 and len(data) == size else b""


# The other side: what runs in the process.


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes nowhere
    _limit_memory()
    try:
        import protego
        import trafilatura  # noqa: F401
    except ImportError as error:
        _send(answers, files.to_json({"missing": error.name}, None))
        return
    protego.Protego.parse("")
    extract("<p>The first page loads more modules.</p>", "http://localhost/")
    _send(answers, b"{}")
    while head := _receive(requests, 1 << 20):
        request = json.loads(head)
        body = _receive(requests, sys.maxsize)
        with _alarm(request["seconds"] + GRACE):
            answer = _answer(request, body)
        _send(answers, answer)


def _answer(request: dict[str, Any], body: bytes) -> bytes:
    """What a page holds, or why it cannot be read, as JSON."""
    failed: dict[str, str]
    try:
        if "robots" in request:
            allowed, delay = _robots(body, request["robots"])
            return files.to_json({"allowed": allowed, "delay": delay}, None)
        reply = Reply(Target(*request["target"]), body, request["content_type"], request["charset"])
        return files.to_json({"page": read_page(reply)._asdict()}, None)
    except WrongType as error:
        failed = {"wrong_type": str(error)}
    except PageError as error:
        failed = {"failed": str(error)}
    except MemoryError:
        failed = {"failed": f"reading it takes more than {MEMORY >> 30} GiB of memory"}
    except Exception as error:  # of a parser, on a page that is broken in a way nobody thought of
        failed = {"failed": f"it cannot be read ({type(error).__name__})"}
    return files.to_json(failed, None)


def _robots(body: bytes, url: str) -> tuple[bool, float]:
    rules = _rules(body)
    delay = float(rules.crawl_delay(AGENT) or 0.0)
    return bool(rules.can_fetch(url, AGENT)), delay if delay <= LONGEST_DELAY else LONGEST_DELAY


@lru_cache(maxsize=16)
def _rules(body: bytes) -> Any:
    from protego import Protego

    return Protego.parse(body.decode("utf-8", "replace").removeprefix("\ufeff"))


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has none, macOS none of this kind
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Let the system end this process after some seconds, should its parent no longer be there to do so."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
