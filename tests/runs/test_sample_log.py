"""samples.jsonl: appended as samples come, rewound with the metrics, and read though damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from microgpt.errors import Stopped
from microgpt.runs import sample_log
from microgpt.runs.folder import RunFolder
from microgpt.runs.sample_log import Sample
from microgpt.training.report import Callbacks
from microgpt.training.train import train
from tests.chats import tiny


class Recorder(Callbacks):
    def __init__(self, end_at: int = 0) -> None:
        self.texts: list[tuple[int, str]] = []
        self.end_at = end_at

    def sample(self, step: int, text: str) -> None:
        self.texts.append((step, text))
        if step == self.end_at:
            raise Stopped("as by a signal", 15)


def test_a_run_records_what_it_draws(talks: Path, tmp_path: Path) -> None:
    """An undisturbed run and one that died after a sample, and was resumed twice, hold the same."""
    config = tiny(talks, run={"steps": 40, "sample_every": 10, "checkpoint_every": 15, "samples": 2})
    told = Recorder()
    done = train(config, tmp_path / "whole", callbacks=told)
    whole = sample_log.last(RunFolder(tmp_path / "whole").samples_file, 99)
    assert [(each.step, each.text) for each in whole if not each.final] == told.texts
    assert [each.text for each in whole if each.final] == done.samples
    assert [each.step for each in whole] == [10, 20, 30, 40, 40, 40]
    with pytest.raises(Stopped):
        train(config, tmp_path / "cut", callbacks=Recorder(20))
    with RunFolder(tmp_path / "cut").samples_file.open("ab") as file:
        file.write(b'{"step": 30, "te')
    for _ in range(2):
        train(config, tmp_path / "cut", resume=True)
        assert sample_log.last(RunFolder(tmp_path / "cut").samples_file, 99) == whole


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    assert sample_log.last(file, 3) == []
    sample_log.add(file, 1, ["a", "<b>\n\udc80"])
    with file.open("ab") as opened:
        opened.write(b'nonsense\n{"step": "2", "text": "x"}\n{"step": 2}\n[]\n{"step": 3, "text": "cu')
    assert [each.step for each in sample_log.last(file, 9)] == [1]  # half a character is no text
    sample_log.rewind(file, 1)
    assert sample_log.last(file, 9) == [Sample(step=1, text="a")]
    sample_log.add(file, 2, ["c" * 999])
    assert [each.text for each in sample_log.last(file, 9, size=1040)] == ["c" * 999]
    assert sample_log.last(file, 9, size=100) == []
