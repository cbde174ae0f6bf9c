"""microgpt train --watch"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.errors import MachineError


def test_the_page_is_there_while_it_trains(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("em\nemma\nolivia\nava\nmia\n" * 5, encoding="utf-8")
    words = [
        "train",
        str(tmp_path / "names.txt"),
        "--out",
        str(tmp_path / "a run"),
        "--steps",
        "100000000",
        "--watch",
        "--size",
        "mini",
    ]
    process = subprocess.Popen([sys.executable, "-m", "microgpt", *words], stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stderr
            said = next(line for line in process.stderr if line.startswith("watch   "))
            found = re.fullmatch(r"watch   (http://127\.0\.0\.1:\d+)/#/watch/a%20run\n", said)
            assert found
            with urllib.request.urlopen(f"{found[1]}/api/runs", timeout=60) as answer:
                assert b'"state":"running"' in answer.read()
            process.send_signal(2)
            assert "resume  microgpt train --resume" in process.stderr.read()
            assert process.wait(60) == 130
        finally:
            process.kill()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(found[1], timeout=5)


def test_without_the_service_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "names", "--steps", "1", "--watch"]) == MachineError("").status
    assert not (tmp_path / "runs").exists()
