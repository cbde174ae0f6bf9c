"""Two kinds of skipped tests: what an installation could bring, a failure in CI; and what the machine itself lacks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

LACKING = "hardware: "  # how the reason of a skip begins that no installation could prevent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "hardware(present, what): the test needs `what` of the machine; skipped, also in CI, unless present"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("hardware"):
        present, what = mark.args
        if not present:
            pytest.skip(LACKING + what)


def lacking(report: pytest.TestReport) -> str | None:
    """The hardware for want of which a test was skipped."""
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    _, found, what = reason.partition(LACKING)
    return what if found else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    """In CI everything is installed, so a skip is a failure, unless it is for hardware that the machine lacks."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail") and lacking(report) is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI has everything: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count and name the tests that this machine could not run."""
    found = Counter(what for report in terminalreporter.getreports("skipped") if (what := lacking(report)) is not None)
    if found:
        terminalreporter.section("skipped: the machine lacks")
        for what, count in sorted(found.items()):
            terminalreporter.line(f"{count} test{'s' * (count > 1)}: {what}")
