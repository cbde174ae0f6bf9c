"""schemathesis makes requests from /openapi.json and holds every answer against it. More of them: --long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.running import serving

# A schema cannot say that a text is longer than the context, an id none of this model's, a number in a field that is
# ignored beyond 64 bits.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 422]
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 413, 415, 422]
"""


def run(url: str, folder: Path, *arguments: str) -> str:
    """What schemathesis says; a failed check is a failed test."""
    (folder / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    code = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [sys.executable, "-c", code, "--config-file", str(folder / "schemathesis.toml"), "run", *arguments]
    done = subprocess.run(
        [*command, "--checks", "all", "--generation-database", "none", "--no-color", f"{url}/openapi.json"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
    )
    report = "\n".join(line[:300] for line in done.stdout.splitlines())
    assert done.returncode == 0, report[-8000:] + done.stderr[-2000:]
    return report


def test_every_answer_is_as_described(bytes_run: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    most = 200 if pytestconfig.getoption("long") else 10
    with serving(bytes_run, log=tmp_path / "log") as server:
        run(server.url, tmp_path, "--phases", "fuzzing", "--max-examples", str(most), "--seed", "1")
        assert server.get("/health").status_code == 200
        log = server.log.read_text()
    assert '"status": 500' not in log
