"""Several processes train what one trains. The long form, with four and with signals: `make proof-processes`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from microgpt.cli import app
from microgpt.commands.launch import Launcher
from microgpt.config import Config
from microgpt.engines import processes
from microgpt.engines.ladder import choose
from microgpt.errors import UsageError
from microgpt.runs import checkpoint
from microgpt.training.prepare import prepare
from microgpt.training.resume import resumed
from microgpt.training.train import train
from tests.training import together
from tests.training.runs import small

LIMIT = 1e-12  # of the relative difference to one process, in float64
CHAT = [{"role": "user", "content": "is it so?"}, {"role": "assistant", "content": "it is so"}]


def write_texts(folder: Path) -> None:
    """What tests.training.together reads."""
    names = [a + b for a in ("em", "oli", "ava", "mia", "zo") for b in ("na", "ra", "lia", "tha")]
    (folder / "names.txt").write_text("\n".join(names), encoding="utf-8")
    chats = [json.dumps({"messages": [{**m, "content": m["content"] + "!" * i} for m in CHAT]}) for i in range(9)]
    (folder / "chats.jsonl").write_text("\n".join(chats), encoding="utf-8")


def write_alone(folder: Path) -> None:
    """The same runs in one process, and the base of the adapters."""
    train(together.config(folder, steps=3), folder / "base")
    train(together.config(folder), folder / "plain")
    train(together.config(folder, "chats.jsonl", steps=4), folder / "chats")
    train(together.adapters(folder), folder / "adapters")


def lines(run: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def difference(ours: Path, theirs: Path) -> float:
    """The largest relative difference of two runs' metrics and last tensors; everything else must be equal."""
    largest = 0.0
    assert len(lines(ours)) == len(lines(theirs))
    for a, b in zip(lines(ours), lines(theirs), strict=True):
        assert a.keys() == b.keys()
        assert a.pop("grad_norm", 0.0) == pytest.approx(b.pop("grad_norm", 0.0), rel=1e-5)  # of six digits
        largest = max(largest, *(abs(a[key] - b[key]) / max(abs(b[key]), 1e-3) for key in a))
    assert (ours / "samples.jsonl").read_text() == (theirs / "samples.jsonl").read_text()
    assert Config.from_toml(ours / "run.toml") == Config.from_toml(theirs / "run.toml")
    tensors = [checkpoint.read(run, "last").tensors() for run in (ours, theirs)]
    for name, value in tensors[1].items():
        scale = np.abs(value).max() or 1.0
        largest = max(largest, float(np.abs(tensors[0][name] - value).max() / scale))
    print(ours.name, largest)
    return largest


def weights_of(run: Path) -> dict[str, bytes]:
    newest = checkpoint.list_steps(run / "checkpoints")[-1]
    return {path.name: path.read_bytes() for path in newest.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("together")
    write_texts(place)
    write_alone(place)
    return place


@pytest.fixture(scope="module")
def status(folder: Path) -> int:
    """The exit status of two processes that train every case of together.py, the last of which kills one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(processes.SECONDS, "60")
        return Launcher(2, [sys.executable, "-m", "tests.training.together", str(folder)]).run()


def test_two_processes_train_what_one_trains(folder: Path, status: int) -> None:
    for ours, theirs in (("plain", "plain"), ("shard", "plain"), ("chats", "chats"), ("adapters", "adapters")):
        assert difference(folder / f"{ours}-2", folder / theirs) < LIMIT, ours


def test_a_run_of_two_is_resumed_by_two_bit_for_bit_and_by_one(folder: Path, status: int) -> None:
    assert weights_of(folder / "parts-2") == weights_of(folder / "plain-2")
    shutil.copytree(folder / "half-2", folder / "half-1")
    train(resumed(folder / "half-1", {}), folder / "half-1", resume=True)
    assert difference(folder / "half-1", folder / "plain") < LIMIT


def test_the_first_process_decides_by_the_clock(folder: Path, status: int) -> None:
    run = Config.from_toml(folder / "timed-2" / "run.toml")
    done = checkpoint.read(folder / "timed-2", "last")
    assert run.run.steps == done.step == lines(folder / "timed-2")[-1]["step"]


def test_a_signal_to_any_process_stops_all_and_everything_is_saved(folder: Path, status: int) -> None:
    done = checkpoint.read(folder / "signal-2", "last")
    assert 3 <= done.step == lines(folder / "signal-2")[-1]["step"] < 10**6


def test_a_process_that_is_killed_ends_the_others(folder: Path, status: int) -> None:
    assert status == 128 + 9
    newest = checkpoint.list_steps(folder / "killed-2" / "checkpoints")[-1]
    assert checkpoint.read(newest).tensors()


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="cannot wait for a process to stop")
def test_a_stopped_first_process_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on and notices that the others have gone, instead of being killed a minute later."""
    monkeypatch.setattr("microgpt.commands.launch.TERMINATE", 0.0)
    monkeypatch.setattr("microgpt.commands.launch.KILL_LEADER", 20.0)
    program = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: None)
if os.environ["RANK"] == "0":
    os.kill(os.getpid(), signal.SIGSTOP)
    sys.exit(70)
sys.exit(75)
"""
    launcher = Launcher(2, [sys.executable, "-S", "-c", program])
    os.waitid(os.P_PID, launcher.processes[0].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert launcher.run() == 70


def test_the_first_process_leaves_last_and_waits_for_nobody_who_is_lost() -> None:
    """It has the store that the others still ask, so one that ended at once would seem to be lost."""
    pytest.importorskip("torch")
    from microgpt.engines.pytorch.distributed import Group

    class Store:
        left = asked = 0

        def add(self, _: str, number: int) -> int:
            self.left += number
            self.asked += 1
            self.left += self.asked == 4  # the other one
            return self.left

    group = object.__new__(Group)
    group.rank, group.size, group._has_lost, group.store = 0, 2, False, Store()
    group.leave()
    assert (group.store.left, group.store.asked) == (2, 4)
    for group.rank, group._has_lost in ((1, False), (0, True), (1, True)):
        group.store = Store()
        group.leave()
        told = 0 if group._has_lost else 1  # a stopped first process's store would not answer
        assert (group.store.left, group.store.asked) == (told, told)


def test_an_engine_that_cannot_share_is_refused(tmp_path: Path) -> None:
    model = together.config(tmp_path).with_vocab(9).model
    with pytest.raises(UsageError, match="--engine manual: cannot train in several processes, only pytorch can"):
        choose(model, together.config(tmp_path).optim, name="manual", shared=True)
    assert choose(model, together.config(tmp_path).optim, shared=True).name == "pytorch"


def test_a_step_needs_a_row_per_process(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--processes 4: a step has 3 rows .*, fewer than processes"):
        prepare(small(tmp_path, batch_size=3), processes=4)
    with pytest.raises(UsageError, match=r"a step has 1 row .*; start 1 or fewer"):
        prepare(small(tmp_path, batch_size=1), processes=2)


def test_the_environment_names_the_process() -> None:
    assert processes.environment({}) == (0, 1)
    assert processes.environment({"RANK": "2", "WORLD_SIZE": "4"}) == (2, 4)
    with pytest.raises(UsageError, match="RANK=4 and WORLD_SIZE=4"):
        processes.environment({"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(UsageError, match="expected seconds, 1 or more"):
        processes.timeout({processes.SECONDS: "0"})
    for given in ("0", "-1", "two", "2000"):
        with pytest.raises(UsageError, match="--processes: must be a number from 1 to 1024, or auto"):
            processes.count(given)


def test_the_commands_of_the_page_are_understood() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8").replace("\\\n", "")
    found = re.findall(r"microgpt ((?:train|finetune) [^#`\n]*?--?[^#`\n]*)", page)
    assert len(found) > 6
    for words in found:
        app.parse_args(shlex.split(words.replace("$RESUME", "text.txt")), exit_on_error=False, print_error=False)
