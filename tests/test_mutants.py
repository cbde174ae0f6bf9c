from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, caught

LESSON = (ROOT / "docs/lesson.md").read_text(encoding="utf-8")
A_FEW = ("no gradient into earlier keys", "ReLU2's gradient lacks its factor", "a schedule off by one")


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.fault in A_FEW], ids=lambda m: m.fault)
def test_suite_catches(mutant: Mutant) -> None:
    """The long form is `make mutants`."""
    by = caught(mutant)
    assert by
    if f'"{mutant.fault}"' in LESSON:  # an exercise, whose answer is the test
        assert f"`{by.split('::')[1].split('[')[0]}`" in LESSON


def test_a_fault_that_is_none_survives() -> None:
    """A mutant counts as caught for its fault, not because its copy cannot be tested at all."""
    none = Mutant("optim.py", "none", "Nothing is changed in place.", "Nothing is changed in place!")
    assert caught(none, ["tests/test_optim.py"]) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.fault}")
def test_table_fits_the_sources(mutant: Mutant) -> None:
    text = (ROOT / "microgpt" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
