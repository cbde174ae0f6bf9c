"""Flags of microgpt train."""

from __future__ import annotations

import pytest

from microgpt.commands.train import seconds
from microgpt.errors import UsageError


def test_lengths_of_time() -> None:
    assert [seconds(t) for t in ("90", "90s", "1.5", "30m", "1h30m", "1d")] == [90, 90, 1.5, 1800, 5400, 86400]
    for bad in ("", "soon", "0", "1h30x", "-5"):
        with pytest.raises(UsageError, match="--max-time"):
            seconds(bad)
