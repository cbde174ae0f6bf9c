"""The models that a service holds: loaded when they are first used, the least recently used one dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from microgpt.serve import models as module
from microgpt.serve.admission import Admission
from microgpt.serve.catalog import Catalog
from microgpt.serve.metrics import Metrics
from microgpt.serve.models import Models


def test_the_least_recently_used_is_dropped(names_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = module.load_all

    def noted(paths: Any, **options: Any) -> Any:
        loads.append(paths[0].name)
        return load(paths, **options)

    async def check() -> None:
        admission = Admission(1, 1)
        catalog = Catalog({name: (tmp_path / name,) for name in "abcd"}, None)
        models = Models(catalog, admission, Metrics(admission, []), max_streams=1, max_models=2, engine={})
        assert not models.ready
        await models.start()
        assert (loads, models.ready) == (["a"], True), "the others are loaded when they are used"
        held = await models.get("b")
        for name in (None, "c", "a", "d"):  # a is used again before c comes, and before d comes
            await models.get(name)
        assert loads == ["a", "b", "c", "d"]
        await asyncio.gather(models.get("b"), models.get("b"))
        assert loads == ["a", "b", "c", "d", "b"], "dropped for c, loaded again once"
        assert await models.get("b") is not held
        for served in models._loaded.values():
            served.retire()
        held.retire()

    monkeypatch.setattr(module, "load_all", noted)
    for name in "abcd":
        (tmp_path / name).symlink_to(names_run)
    asyncio.run(check())
