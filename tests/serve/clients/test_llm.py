"""`llm`, a command line for models: the commands that docs/serve.md names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.serve.conftest import BYTES, CHAT, NAMES
from tests.serve.running import Server


def test_llm(server: Server, tmp_path: Path) -> None:
    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "llm", "openai", "endpoint", f"{server.url}/v1", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "HOME": str(tmp_path)}
        return subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]

    runs = [
        (start("--models"), ""),
        (start("-m", CHAT, "-o", "temperature", "0", "how are you"), ""),
        (start("-m", CHAT, "-o", "temperature", "0", "--chat"), "how are you\nquit\n"),
        (start("-m", BYTES, "--schema", "name, age int", "hi"), ""),
    ]
    told = []
    for process, given in runs:
        out, errors = process.communicate(given, timeout=60)
        assert process.returncode == 0, errors
        told.append(out)
    assert told[0].split() == [CHAT, NAMES, BYTES]
    question = {"messages": [{"role": "user", "content": "how are you"}], "temperature": 0}
    answer = server.post("/v1/chat/completions", question).json()["choices"][0]["message"]["content"]
    assert told[1].strip() == answer
    assert answer in told[2]
    assert isinstance(json.loads(told[3])["age"], int)
