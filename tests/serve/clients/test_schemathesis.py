"""schemathesis over /openapi.json with all its checks; schema.py has the long form, with the page's own routes."""

from __future__ import annotations

from pathlib import Path

from tests.serve.clients.schema import run
from tests.serve.running import serving


def test_every_answer_is_as_described(bytes_run: Path, tmp_path: Path) -> None:
    with serving(bytes_run, log=tmp_path / "log") as server:
        assert run(server.url, tmp_path, most=110, seed=1, page=False) >= 2000
        assert server.get("/health").status_code == 200
        log = server.log.read_text()
    assert '"status": 500' not in log
