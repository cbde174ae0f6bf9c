"""Tokenizing by processes: the tokens of one process, errors by name, and an end of one that is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from microgpt import tokenizers
from microgpt.config import Data
from microgpt.data import token_processes
from microgpt.data.token_processes import Processes, tokenize_all
from microgpt.data.tokenize import tokenize
from microgpt.errors import DataError, MachineError

BATCHES = [["one two", "größer"], [], [""], ["a\nb", "", "one"], *([f"number {i}"] for i in range(20)), ["end"]]


def test_processes_write_what_one_writes_and_their_errors_and_ends_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_processes, "PIPE_BYTES", -1)  # as on a system that grants no wider pipes
    tokenizer = tokenizers.train("bpe-vidya", [text for batch in BATCHES for text in batch])
    data = Data(trailing_bos=False)
    alone = list(tokenize_all(BATCHES, tokenizer, data, "text", 1))
    assert [batch for batch, _ in alone] == [batch for batch in BATCHES if batch]
    with Processes(2, tokenizer, data, "text") as pool:
        together = list(pool.map(batch for batch in BATCHES if batch))
        for (batch, one), (again, two) in zip(alone, together, strict=True):
            assert batch == again
            assert all(map(np.array_equal, one, two))
        with pytest.raises(DataError, match="text: in the document 'Ω'") as alike:
            list(pool.map([["one"], ["two", "Ω"]]))
        with pytest.raises(DataError) as error:
            tokenize(["two", "Ω"], tokenizer, data, "text")
        assert (str(alike.value), alike.value.code) == (str(error.value), error.value.code)
        for process in pool.all:
            process.kill()
        with pytest.raises(MachineError, match="a process that tokenizes has ended"):
            list(pool.map([["one"]]))
    assert all(process.returncode is not None for process in pool.all)


def test_a_short_text_starts_no_process() -> None:
    assert token_processes.default_processes(token_processes.WORTH - 1) == 1
