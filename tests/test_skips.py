"""The two kinds of skipped tests: what an installation could bring, which CI has, and what the machine lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.hardware(False, "eight legs")
def test_spider(): raise AssertionError

@pytest.mark.hardware(False, "eight legs")
@pytest.mark.parametrize("n", [1, 2])
def test_tarantula(n): raise AssertionError

@pytest.mark.hardware(True, "two legs")
@pytest.mark.hardware(False, "wings")
def test_bird(): raise AssertionError

@pytest.mark.hardware(True, "two legs")
def test_man(): pass
"""
INSTALLED = """
import pytest

def test_library(): pytest.importorskip("no_such_library")

@pytest.mark.skipif(True, reason="no such program")
def test_program(): raise AssertionError

@pytest.mark.xfail
def test_expected_to_fail(): raise AssertionError
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(Path(__file__).with_name("skips.py").read_text(encoding="utf-8"))
    return pytester


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("ci", ["", "1"])
def test_what_the_machine_lacks_is_skipped_counted_and_named(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, workers: str
) -> None:
    monkeypatch.setenv("CI", ci)
    suite.makepyfile(TESTS)
    result = suite.runpytest_subprocess("-n", workers, "-q", "--strict-markers")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["*skipped: the machine lacks*", "3 tests: eight legs", "1 test: wings"])
    assert result.ret == 0


def test_what_could_be_installed_is_skipped_where_it_is_not(suite: pytest.Pytester) -> None:
    suite.makepyfile(INSTALLED)
    result = suite.runpytest_subprocess("-q")
    result.assert_outcomes(skipped=2, xfailed=1)
    result.stdout.no_fnmatch_line("*the machine lacks*")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_could_be_installed_fails_in_ci(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("CI", "1")
    suite.makepyfile(INSTALLED)
    result = suite.runpytest_subprocess("-n", workers, "-q")
    result.assert_outcomes(failed=1, errors=1, xfailed=1)
    result.stdout.fnmatch_lines(["*skipped, but CI has everything*"])
    assert result.ret == 1
