"""The page in headless Chromium: first paint, a token from key to screen, attention of 10 M parameters, long curves.

    python -m benchmarks.page

Server and browser are processes of this machine; the times are those that the browser sees, up to the frame that shows
the change. Of several tries the best counts, as in all benchmarks here; the median is in the note.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import Options, Row, script
from benchmarks.serving import serving
from benchmarks.work import TEN_MILLION, names_file
from microgpt.config import Config
from microgpt.inference.language_model import LanguageModel
from microgpt.model import n_params
from microgpt.training.train import train

LOGGED = 100_000  # steps of the long curves
PAINT, KEY, ATTENTION, DRAW, FRAME = 100, 16, 300, 1000, 50  # milliseconds, at most

# From a key until the first token is laid out, and until the frame is over that shows it: its callback runs before it
# is painted, and a task that is posted from there after it.
FROM_KEY = """
() => new Promise((resolve) => {
  const area = document.querySelector('#prompt');
  const text = document.querySelector('.text');
  let began = 0;
  const watcher = new MutationObserver(() => {
    if (!text.querySelector('.drawn')) return;
    watcher.disconnect();
    const ready = text.offsetHeight && performance.now() - began;
    requestAnimationFrame(() => setTimeout(() => resolve([ready, performance.now() - began])));
  });
  area.addEventListener('keydown', function enter(event) {
    if (event.key !== 'Enter') return; // Ctrl, which is held
    area.removeEventListener('keydown', enter, true);
    began = event.timeStamp;
    watcher.observe(text, { childList: true, subtree: true });
  }, true);
  area.dispatchEvent(new Event('input'));
  area.focus();
})
"""
ATTENDED = """
(text) => new Promise((resolve) => {
  const area = document.querySelector('#looked');
  const large = document.querySelector('canvas.large');
  const facts = document.querySelector('.asked > p.soft:last-child');
  const began = performance.now();
  const watcher = new MutationObserver(() => {
    watcher.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve([performance.now() - began, facts.textContent, large.width])));
  });
  watcher.observe(facts, { childList: true, characterData: true, subtree: true });
  area.value = text;
  area.dispatchEvent(new Event('input'));
})
"""
DRAWN = """
() => new Promise((resolve) => {
  const began = performance.now();
  const look = () => {
    const chart = document.querySelector('main.watch svg.picture path.line');
    if (chart) requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
    else if (performance.now() - began > 20_000) resolve(null);
    else requestAnimationFrame(look);
  };
  location.hash = '#/watch/long';
  look();
})
"""
FRAMES = """
() => {
  window.frames_ = [];
  let last = performance.now();
  const next = (now) => { window.frames_.push(now - last); last = now; window.framing = requestAnimationFrame(next); };
  window.framing = requestAnimationFrame(next);
}
"""


def family(options: Options) -> list[Row]:
    """The rows of the table."""
    tries = 2 if options.quick else 10
    with tempfile.TemporaryDirectory() as place, browser() as chromium:
        runs = Path(place)
        size = make_runs(runs, options)
        with serving(runs) as port:
            url = f"http://127.0.0.1:{port}/"
            return [
                row("first paint", PAINT, first_paint(chromium, url, tries)),
                *tokens(chromium, url, 3 * tries),
                unclocked(chromium, url, 3 * tries),
                row(f"attention of {compact(size)}, 256 positions", ATTENTION, attention(chromium, url, tries)),
                *curves(chromium, url, tries),
            ]


def row(work: str, target: float, times: Sequence[float], note: str = "") -> Row:
    """A row of milliseconds, the best of all tries; without any, its note says why."""
    if not times:
        return Row(work, "-", "ms", note=note)
    best, median = min(times), statistics.median(times)
    return Row(work, "-", "ms", best, None, best, "<=", target, "ms", f"median {median:.1f} ms of {len(times)}{note}")


def compact(number: int) -> str:
    """A number of parameters in millions or thousands."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k"


def make_runs(runs: Path, options: Options) -> int:
    """`names`, a few hundred steps; `ten`, one step of 10 million weights; `long`, whose log has 100,000 steps. Returns
    the parameters of `ten`."""
    text = str(names_file(options))
    train(Config.of("names", data={"path": text}, run={"steps": 300, "samples": 0}), runs / "names")
    shape = TEN_MILLION.model_dump(exclude={"vocab_size"})
    shape |= {"n_layer": 1, "n_embd": 24} if options.quick else {}
    run = {"steps": 1, "samples": 0, "batch_size": 1}
    train(Config.of("names", model=shape, data={"path": text}, run=run), runs / "ten")
    shutil.copytree(runs / "names", runs / "long")
    lines = (
        f'{{"step": {i}, "loss": {2.3 + 1.2 * math.exp(-i / 9000) + 0.4 * math.sin(i * i)!r}, '
        f'"lr": {0.01 * (1 - i / LOGGED)!r}, "tokens": {i * 7}, "seconds": {i / 900:.6f}}}\n'
        for i in range(1, LOGGED + 1)
    )
    (runs / "long" / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return n_params(LanguageModel.open(runs / "ten").config.model)


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = launch(playwright.chromium)
        yield running
        running.close()


def launch(kind: Any, *flags: str) -> Any:
    """Chromium with further flags; `kind` is Playwright's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    return kind.launch(executable_path=path, args=["--no-sandbox", *flags])


@contextmanager
def visit(chromium: Any, url: str, width: int = 1400) -> Iterator[Any]:
    """A page of a browser that knows nothing yet."""
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(url)
    page.locator("main[class]").wait_for()
    yield page
    context.close()


def first_paint(chromium: Any, url: str, tries: int) -> list[float]:
    """Milliseconds from the navigation to the first paint with content, without a cache, in a browser that has painted
    before: to start one and its painting takes longer than that."""
    found = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = []
    with visit(chromium, f"{url}#/play/names") as page:
        page.context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
        for _ in range(tries):
            page.goto(f"{url}health")
            page.goto(f"{url}#/play/names")
            page.wait_for_function(found)
            times.append(float(page.evaluate(found)))
            page.wait_for_timeout(200)
    return times


def tokens(chromium: Any, url: str, tries: int) -> list[Row]:
    """From Ctrl+Enter in Play to the first token. Playwright's keys come just after a frame, 60 of which make a second:
    a token that is ready after 16 ms is shown by the next one."""
    ready, shown = from_key(chromium, url, tries)
    to_frame = row("the same, to the end of the frame that shows it", math.inf, shown)
    return [row("a token of names, from key to layout", KEY, ready), replace(to_frame, target=None)]


def unclocked(chromium: Any, url: str, tries: int) -> Row:
    """The same to the end of its frame, by a browser that does not wait for a display of 60 Hz to show a frame."""
    free = launch(chromium.browser_type, "--disable-gpu-vsync", "--disable-frame-rate-limit")
    _, shown = from_key(free, url, tries)
    free.close()
    return row("the same, without waiting for 60 Hz", KEY, shown)


def from_key(chromium: Any, url: str, tries: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the key until the first token is laid out, and until the end of the frame that shows it."""
    ready, shown = [], []
    with visit(chromium, f"{url}#/play/names") as page:
        page.locator("#prompt").wait_for()
        for _ in range(tries):
            promised = page.evaluate_handle(f"() => ({{ promise: ({FROM_KEY})() }})")
            page.keyboard.press("Control+Enter")
            first, second = page.evaluate("(promised) => promised.promise", promised)
            ready.append(float(first))
            shown.append(float(second))
            page.wait_for_timeout(200)
    return ready, shown


def attention(chromium: Any, url: str, tries: int) -> list[float]:
    """Milliseconds from a text of 256 positions to the picture of its attention."""
    with visit(chromium, f"{url}#/inside/ten") as page:
        page.wait_for_function("() => document.querySelector('.asked > p.soft:last-child')?.textContent")
        found = []
        for i in range(tries + 1):
            text = "".join(chr(97 + (i + j * j) % 26) for j in range(255))
            spent, facts, _ = page.evaluate(ATTENDED, text)
            assert facts.startswith("256 tokens"), facts
            found.append(float(spent))
        return found[1:]  # the first one prepares the model


def curves(chromium: Any, url: str, tries: int) -> list[Row]:
    """The chart of 100,000 logged steps: the time to draw it, and the longest frame while it is panned."""
    drawn, longest = [], []
    for _ in range(tries):
        with visit(chromium, f"{url}#/play/names") as page:
            spent = page.evaluate(DRAWN)
            if spent is None:
                note = "the view Watch draws no curve"
                return [row("100,000 logged steps, drawn", DRAW, [], note), row("the same, panned", FRAME, [], note)]
            drawn.append(float(spent))
            page.locator("main.watch svg.picture").first.focus()
            page.keyboard.press("+")
            page.evaluate(FRAMES)
            for i in range(30):
                page.keyboard.press("Shift+ArrowRight" if i % 10 < 5 else "Shift+ArrowLeft")
            longest.append(float(page.evaluate("() => (cancelAnimationFrame(framing), Math.max(...frames_.slice(1)))")))
    return [row("100,000 logged steps, drawn", DRAW, drawn), row("the same, panned: longest frame", FRAME, longest)]


if __name__ == "__main__":
    script(family, __doc__, cores=2)
