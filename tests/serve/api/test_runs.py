"""GET /api/runs."""

from __future__ import annotations

from tests.serve.running import Server


def test_the_runs_are_listed(page_server: Server) -> None:
    runs = page_server.get("/api/runs").json()["runs"]
    assert [(run["name"], run["model"], run["chat"]) for run in runs] == [
        ("names", True, False),
        ("talk", True, True),
        ("bytes", True, True),
    ]
    assert [kept["step"] for kept in runs[0]["checkpoints"]] == [20, 40, 60, 80, 100]
