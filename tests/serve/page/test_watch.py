"""Watch, in Chromium: curves, samples and differences; live, over a kill -9, a restart of the service and a reload."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from microgpt.config import Config
from microgpt.runs import sample_log
from microgpt.runs.checkpoint import find
from tests.chats import tiny
from tests.serve.page.conftest import NAMES, TALK, Visit, everywhere
from tests.serve.running import Server, serving

XSS = [
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "${alert(1)},{{7*7}}",
    "&lt;b&gt;' onfocus='alert(1)",
]
LOST = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET")


@pytest.fixture(scope="module")
def folder(runs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: those of the page, one of 100,000 steps, and names and texts that would be markup."""
    folder = tmp_path_factory.mktemp("watched")
    for name in (NAMES, TALK):
        shutil.copytree(runs_folder / name, folder / name)
    make_run(folder / "long", 100_000)
    for text in XSS:
        run = make_run(folder / text, 30, description=text, path=f"/data/{text}.txt")
        sample_log.add(run / "samples.jsonl", 30, [text, "line\n" + text])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(folder, log=tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


def make_run(place: Path, steps: int, description: str = "", **data: str) -> Path:
    place.mkdir()
    config = Config(description=description).replace(model={"vocab_size": 27}, run={"steps": 10**6}, data=data)
    (place / "run.toml").write_text(config.to_toml(), encoding="utf-8")
    (place / "metrics.jsonl").write_text("".join(line(step) for step in range(1, steps + 1)), encoding="utf-8")
    return place


def line(step: int) -> str:
    loss = 9.0 if step == 77_777 else 2 + 1000 / (step + 999) + step % 7 / 10
    return (
        json.dumps(
            {
                "step": step,
                "loss": loss,
                "lr": 1 / (step + 99),
                "grad_norm": 2 + loss,
                "tokens": 8 * step,
                "seconds": step / 1e4,
            }
        )
        + "\n"
    )


def drawn(page: Any, chart: int = 0) -> Any:
    """The slider over a chart, when it has lines."""
    page.locator(".chart").nth(chart).locator(".line").first.wait_for(state="attached")
    return page.locator(".chart .picture").nth(chart)


def text_of(slider: Any) -> str:
    return str(slider.get_attribute("aria-valuetext"))


def waits(page: Any, selector: str, text: str) -> None:
    """Until an element of the selector has the text in it."""
    page.wait_for_function(
        "([selector, text]) => [...document.querySelectorAll(selector)].some((e) => e.textContent.includes(text))",
        arg=[selector, text],
    )


def test_what_a_finished_run_shows(visit: Visit, server: Server, folder: Path) -> None:
    page = visit(f"#/watch/{NAMES}", url=server.url)
    assert "step 100: training " in text_of(drawn(page))
    assert ", held-out " in text_of(drawn(page))
    for chart, name in enumerate(("rate", "norm", "tokens/s"), start=1):
        assert f"step 100: {name} " in text_of(drawn(page, chart))
    waits(page, ".status", "finished")
    waits(page, ".facts dt", "bits per byte")
    waits(page, ".beat", "Lines to beat: guessing ")
    levels = page.locator(".chart").first.locator(".level")
    assert 2 <= levels.count() <= 3  # the uniform one may lie above the picture
    told = [each.text for each in sample_log.last(folder / NAMES / "samples.jsonl", 9)]
    assert page.locator(".samples p").all_text_contents() == [text or "(nothing)" for text in told]
    assert page.locator(".chart .mark").count() == 5
    assert page.locator(".chart .mark.best").count() == 1
    page.get_by_text("The curves as a table").click()
    page.locator("details table caption", has_text="Losses, learning rates").wait_for(state="attached")
    assert page.get_by_role("row").count() == 21
    page.get_by_text("Configuration", exact=True).click()
    row = page.get_by_role("row").filter(has_text="optim.learning_rate")
    assert row.get_by_role("cell").text_content() == "0.02"


def test_keys_read_and_zoom(visit: Visit, server: Server) -> None:
    page = visit("#/watch/long", url=server.url)
    slider = drawn(page)
    slider.focus()
    page.keyboard.press("Home")
    assert text_of(slider).startswith("step 1: training 3.")
    page.keyboard.press("ArrowRight")
    second = text_of(slider)
    assert second != "step 1"
    assert page.locator(".readout").first.text_content().startswith(second.partition(":")[0])
    page.keyboard.press("End")
    assert text_of(slider).startswith("step 100,000: ")
    assert text_of(drawn(page, 1)).startswith("step 100,000: rate ")  # the charts share the cursor
    whole = page.get_by_role("button", name="Whole run")
    assert whole.is_disabled()
    for _ in range(4):
        page.keyboard.press("+")
    assert int(slider.get_attribute("aria-valuemin") or 0) > 90_000
    page.keyboard.press("Shift+ArrowLeft")
    assert int(slider.get_attribute("aria-valuemax") or 0) < 100_000
    assert whole.is_enabled()
    page.keyboard.press("0")
    assert slider.get_attribute("aria-valuemin") == "1"
    page.get_by_role("button", name="Logarithmic").click()
    assert page.get_by_role("button", name="Logarithmic").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Logarithmic").click()


def test_a_part_is_drawn_in_full_and_a_hundred_thousand_steps_without_lag(visit: Visit, server: Server) -> None:
    """Dragging asks for the part, where the one step that sticks out is found; a frame of the whole takes little."""
    # A hundredth of the chart, which no pointer takes on a phone.
    page = visit("#/watch/long", url=server.url, width=1400)
    box = drawn(page).bounding_box()
    points = page.locator(".chart .line").first.get_attribute("d").count("L")
    assert 500 < points < 3100
    seconds = page.evaluate(
        """async () => {
          const picture = document.querySelector('.chart .picture');
          const began = performance.now();
          for (let i = 0; i < 20; i++) {
            picture.dispatchEvent(new PointerEvent('pointermove', {clientX: 200 + i, bubbles: true}));
            await new Promise(requestAnimationFrame);
          }
          return (performance.now() - began) / 20 / 1000;
        }"""
    )
    assert seconds < 0.5  # some 0.017, a frame
    left, width = box["x"] + 58, box["width"] - 72
    page.mouse.move(left + width * 0.77, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(left + width * 0.78, box["y"] + 100)
    with page.expect_response(lambda answer: answer.url.endswith("/api/metrics")) as answer:
        page.mouse.up()
    part = answer.value.json()["training"]
    assert 9.0 in part["loss"]
    assert 900 < part["step"][-1] - part["step"][0] < 1100
    assert len(part["step"]) > 900  # every step, or nearly
    page.locator(".chart .picture").first.dblclick()
    assert page.get_by_role("button", name="Whole run").is_disabled()


def test_several_runs_and_how_they_differ(visit: Visit, server: Server) -> None:
    page = visit(f"#/watch/{NAMES}", url=server.url)
    drawn(page)
    page.get_by_text("Compare runs").click()
    page.get_by_label(TALK).check()
    page.wait_for_url(f"**/#/watch/{NAMES},{TALK}")
    waits(page, ".status h2", TALK)
    waits(page, "details th.mono", "run.steps")
    keys = page.locator("details th.mono").all_text_contents()
    assert "run.steps" in keys
    assert "optim.beta1" not in keys  # the same in both
    page.wait_for_function(
        "() => document.querySelector('.picture').getAttribute('aria-valuetext').includes('talk training')"
    )
    assert f"{NAMES} training" in text_of(drawn(page))
    page.reload()
    waits(page, ".status h2", TALK)


def test_it_fits_and_is_accessible(visit: Visit, server: Server) -> None:
    """Two runs, then one, with all that can be opened; a box that is ticked keeps the focus when other runs come."""
    page = visit(f"#/watch/{NAMES},long", url=server.url)
    drawn(page, 2)
    waits(page, "details th.mono", "run.steps")
    page.locator("details > summary", has_text="table").click()
    page.get_by_text("Compare runs").click()
    page.get_by_role("row").nth(3).wait_for()
    everywhere(page)
    box = page.get_by_role("checkbox", name="long")
    box.focus()
    page.keyboard.press("Space")
    page.wait_for_url(f"**/#/watch/{NAMES}")
    drawn(page)
    page.wait_for_function("() => document.activeElement.dataset.run === 'long'")
    page.get_by_text("Configuration", exact=True).click()
    waits(page, "details th.mono", "run.steps")
    everywhere(page, "main")


def test_text_is_never_markup(visit: Visit, server: Server) -> None:
    for text in XSS:
        page = visit(f"#/watch/{quote(text, safe='')}", url=server.url)
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        waits(page, ".samples p", text)
        waits(page, ".status", text)
        page.get_by_text("Configuration", exact=True).click()
        waits(page, "td", f"/data/{text}.txt")
        assert page.locator("main img, main svg[onload], main b, main [onfocus]").count() == 0
        page.close()


def test_a_training_is_watched_killed_and_resumed(visit: Visit, server: Server, folder: Path, talks: Path) -> None:
    settings = tiny(talks, run={"steps": 10**6, "checkpoint_every": 50, "sample_every": 20, "samples": 0})
    (folder.parent / "live.toml").write_text(settings.to_toml(), encoding="utf-8")
    out = ["--out", str(folder / "live")]
    command = [sys.executable, "-m", "microgpt", "train"]
    no_output: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    training = subprocess.Popen([*command, str(folder.parent / "live.toml"), *out], **no_output)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "live" / "checkpoints").exists() or not any(
            (folder / "live" / "checkpoints").glob("step*")
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        page = visit("#/watch/live", url=server.url)
        waits(page, ".status", "is being trained")
        waits(page, ".facts dt", "time left")
        first = int(drawn(page).get_attribute("aria-valuemax") or 0)
        page.wait_for_function(
            "first => Number(document.querySelector('.picture').getAttribute('aria-valuemax')) > first", arg=first
        )
        page.locator(".samples li").first.wait_for()
        os.kill(training.pid, signal.SIGKILL)
        waits(page, ".status", "stopped")
        waits(page, "#said", "live: stopped")
    finally:
        training.kill()
        training.wait()
    saved = int(find(folder / "live").name.removeprefix("step-"))
    subprocess.run([*command, "--resume", *out, "--stop-at", str(saved + 7)], check=True, timeout=120, **no_output)
    waits(page, ".facts dd", f"{saved + 7:,} of 1,000,000")
    page.reload()
    waits(page, ".facts dd", f"{saved + 7:,} of 1,000,000")


def test_the_service_is_restarted_while_watched(visit: Visit, folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with serving(runs, log=tmp_path / "log") as server:
        page = visit("#/watch/", url=server.url, expected=LOST)
        waits(page, "main", "microgpt train names")
        shutil.copytree(folder / NAMES, runs / NAMES)  # a run appears
        page.wait_for_url(f"**/#/watch/{NAMES}")
        drawn(page)
        port = server.port
        server.process.terminate()
        server.process.wait(10)
        waits(page, "main [role=status]", "Trying again…")
    with (runs / NAMES / "metrics.jsonl").open("a") as file:
        file.write(line(101))
    with serving(runs, log=tmp_path / "log", port=str(port)):
        page.wait_for_function("() => document.querySelector('.picture').getAttribute('aria-valuemax') === '101'")
        page.locator("main [role=status]").first.wait_for(state="hidden")
        waits(page, "#said", "The connection is back.")
        page.goto("about:blank")
