"""Clients with environments of their own, against a service: LangChain's suite, lm-eval, the AI SDK.

python -m tests.serve.clients FOLDER    # FOLDER keeps the environments; make test-clients
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from microgpt.training.train import train
from tests.chats import conversations, tiny, write
from tests.serve.running import serving

HERE = Path(__file__).parent / "others"
SKIPPED = "skipped: "

# One of LangChain's tests of structured output calls a function, whatever method it is told.
CALLS_A_FUNCTION = "test_structured_output_pydantic_2_v1"


def main(folder: Path) -> int:
    """Run all three. The exit status is 1 if one failed."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        config = tiny(write(place / "talks.jsonl", conversations()), model={"block_size": 256}, run={"steps": 60})
        bpe = config.data.model_copy(update={"tokenizer": "bpe", "vocab_size": 300})
        train(config.model_copy(update={"data": bpe}), place / "served")
        python = environment(folder / "python")
        with serving(place / "served", log=place / "log") as server:
            clients: dict[str, Callable[[], str]] = {
                "LangChain": lambda: langchain(python, server.url),
                "lm-eval": lambda: lm_eval(python, server.url, place),
                "AI SDK": lambda: ai_sdk(folder / "node", server.url),
            }
            found = {name: run() for name, run in clients.items()}
    for name, told in found.items():
        print(f"{name:<10} {told}")
    return 0 if all(told.startswith(("passed", SKIPPED)) for told in found.values()) else 1


def environment(folder: Path) -> Path:
    """The Python of an environment with the clients, made when it is not there or its list is another."""
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    made, python = folder / "made", folder / "bin" / "python"
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
        made.write_text(wanted, encoding="utf-8")
    return python


def langchain(python: Path, url: str) -> str:
    """LangChain's suite."""
    loops = [f"asyncio_default_{kind}_loop_scope=session" for kind in ("test", "fixture")]
    options = [part for option in ("asyncio_mode=auto", *loops) for part in ("-o", option)]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, *options]
    command += ["--deselect", f"langchain_suite.py::TestServed::{CALLS_A_FUNCTION}", "langchain_suite.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=os.environ | {"SERVED": url})
    last = done.stdout.rstrip().rpartition("\n")[2]
    return f"passed: {last}" if done.returncode == 0 else f"failed: {done.stdout[-3000:]}{done.stderr[-1000:]}"


def lm_eval(python: Path, url: str, place: Path) -> str:
    """A task of three questions whose answers the model has learned."""
    rows = [("hi", [" there", " you"]), ("see", [" you", " there"]), ("fine", [" thanks", " model"])]
    lines = [json.dumps({"question": question, "choices": choices, "label": 0}) for question, choices in rows]
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = {
        "task": "learned",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(place / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "{{choices}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (place / "learned.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML, too
    model = f"model=served,base_url={url}/v1/completions,tokenizer_backend=remote,num_concurrent=1"
    command = [python, "-m", "lm_eval", "--model", "local-completions", "--model_args", model, "--tasks", "learned"]
    command += ["--include_path", str(place), "--output_path", str(place / "results")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=os.environ | offline)
    if done.returncode:
        return f"failed: {done.stderr[-3000:]}"
    (result,) = (place / "results").rglob("results_*.json")
    accuracy = json.loads(result.read_text(encoding="utf-8"))["results"]["learned"]["acc,none"]
    return f"passed: accuracy {accuracy}" if accuracy == 1 else f"failed: accuracy {accuracy}"


def ai_sdk(folder: Path, url: str) -> str:
    """The AI SDK, where Node.js is there and its packages can be fetched."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        return f"{SKIPPED}Node.js is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "ai_sdk.mjs"):
        shutil.copy(HERE / name, folder)
    installed = subprocess.run([npm, "install", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True)
    if installed.returncode:
        return f"{SKIPPED}npm cannot fetch the packages: {installed.stderr[-300:]}"
    done = subprocess.run([node, "ai_sdk.mjs", url], cwd=folder, capture_output=True, text=True, timeout=120)
    return "passed" if done.returncode == 0 else f"failed: {done.stderr[-3000:]}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
