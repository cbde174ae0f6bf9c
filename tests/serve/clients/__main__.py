"""Clients with environments of their own, against a service: LangChain's suite, lm-eval, the AI SDK.

python -m tests.serve.clients FOLDER    # FOLDER keeps the environments; make test-clients
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from microgpt.training.train import train
from tests.chats import conversations, tiny, write
from tests.serve.clients import lm_eval
from tests.serve.clients.failing import Failed, run
from tests.serve.running import serving

HERE = Path(__file__).parent / "others"
SKIPPED = "skipped: "

# One of LangChain's tests of structured output calls a function, whatever method it is told.
CALLS_A_FUNCTION = "test_structured_output_pydantic_2_v1"


def main(folder: Path) -> int:
    """Run all three. The exit status is 1 if one failed, or could not be installed."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        config = tiny(write(place / "talks.jsonl", conversations()), model={"block_size": 256}, run={"steps": 60})
        bpe = config.data.model_copy(update={"tokenizer": "bpe", "vocab_size": 300})
        train(config.model_copy(update={"data": bpe}), place / "served")
        with serving(place / "served", "--model", f"other={place / 'served'}", log=place / "log") as server:
            clients: dict[str, Callable[[], str]] = {
                "LangChain": lambda: langchain(environment(folder / "python"), server.url),
                "lm-eval": lambda: lm_eval.check(environment(folder / "python"), place),
                "AI SDK": lambda: ai_sdk(folder / "node", server.url),
            }
            found = {name: _told(client) for name, client in clients.items()}
    for name, told in found.items():
        print(f"{name:<10} {told}")
    return 0 if all(told.startswith(("passed", SKIPPED)) for told in found.values()) else 1


def _told(client: Callable[[], str]) -> str:
    try:
        return client()
    except Failed as error:
        return f"failed: {error}"


def environment(folder: Path) -> Path:
    """The Python of an environment with the clients, made when it is not there or its list is another."""
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    made, python = folder / "made", folder / "bin" / "python"
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        run([*pip, "-r", HERE / "requirements.txt"], "pip cannot install others/requirements.txt", last=True)
        made.write_text(wanted, encoding="utf-8")
    return python


def langchain(python: Path, url: str) -> str:
    """LangChain's suite."""
    loops = [f"asyncio_default_{kind}_loop_scope=session" for kind in ("test", "fixture")]
    options = [part for option in ("asyncio_mode=auto", *loops) for part in ("-o", option)]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "-c", os.devnull, *options]
    command += ["--deselect", f"langchain_suite.py::TestServed::{CALLS_A_FUNCTION}", "langchain_suite.py"]
    told = run(command, "a test failed", cwd=HERE, SERVED=url)
    return f"passed: {told.rstrip().rpartition(chr(10))[2]}"


def ai_sdk(folder: Path, url: str) -> str:
    """The AI SDK. Without Node.js it is skipped, but not by CI, which can install it."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        if os.environ.get("CI"):
            raise Failed("Node.js and npm are not installed")
        return f"{SKIPPED}Node.js and npm are not installed"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "ai_sdk.mjs"):
        shutil.copy(HERE / name, folder)
    run([npm, "ci", "--no-audit", "--no-fund"], "npm cannot install others/package-lock.json", last=True, cwd=folder)
    return f"passed: {run([node, 'ai_sdk.mjs', url], 'a check failed', cwd=folder).strip()}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
