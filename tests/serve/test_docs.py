"""docs/serve.md: every route has a curl line, every line works, and the limits are those of the table."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from microgpt.inference.slots import PREFIX_BYTES
from microgpt.serve.app import routes
from microgpt.serve.limits import LIMITS
from tests.serve.running import Server

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\$ (curl .+)$", PAGE, re.MULTILINE)
ADDRESS = "http://127.0.0.1:8080"


@pytest.mark.parametrize("line", LINES)
def test_a_line_works(server: Server, line: str) -> None:
    words = shlex.split(line.replace(ADDRESS, server.url))
    found = subprocess.run([*words, "-w", "\n%{http_code} %{content_type}"], capture_output=True, text=True, timeout=30)
    answer, _, last = found.stdout.rpartition("\n")
    status, media = last.split(" ", 1)
    assert status == "200", answer
    if media == "application/json":
        assert json.loads(answer)
    elif media.startswith("text/event-stream"):
        assert answer.endswith("data: [DONE]\n\n")


def test_every_route_has_a_line(server: Server) -> None:
    """But those under /page and /api, which are the page's own."""
    paths = [path for path in server.get("/openapi.json").json()["paths"] if not path.startswith(("/page/", "/api/"))]
    shown = {re.search(rf"{ADDRESS}(/\S*)", line)[1].replace("/models/names", "/models/{id}") for line in LINES}  # type: ignore[index]
    assert shown == set(paths)


def test_the_document_names_every_route(server: Server) -> None:
    found = server.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, each in found.items() for method in each} == {
        (route.method, route.shown) for route in routes()
    }


def test_the_limits_are_those_of_the_table() -> None:
    expected = [
        f"| `{name}` | {number(limit.least)} | {number(limit.most)} | {limit.meaning} |"
        for name, limit in LIMITS.items()
    ]
    assert [line for line in PAGE.splitlines() if line.startswith("| `")] == expected


def test_the_memory_of_prompts_is_that_of_the_code() -> None:
    assert f"up to {PREFIX_BYTES >> 20} MiB of memory\nper model" in PAGE


def number(value: float) -> str:
    powers = {2**63 - 1: "2^63 - 1", 2**64 - 1: "2^64 - 1", 2**31 - 1: "2^31 - 1", -(2**63): "-2^63"}
    whole = int(value)
    return powers.get(whole) or (f"{whole:,}" if value == whole else f"{value:g}")
