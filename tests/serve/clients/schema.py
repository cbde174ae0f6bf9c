"""schemathesis makes requests from /openapi.json, and holds every answer and every event of a stream against it.

python -m tests.serve.clients.schema [CASES [SEED]]    # in rounds of a seed each; make test-schema: 200,000
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from microgpt.training.train import train
from tests.chats import conversations, tiny, write
from tests.serve.running import serving

ROUND = 5_000  # cases, beside those of limits
HERE = Path(__file__).parent

# What a schema cannot say is refused with 400 or 422, for no other reason: accepted.py. 403: a training where there is
# no folder of runs. 404: no model of that name. 409: a training that is not in the state for it.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 403, 404, 409, 422]
[checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 405, 413, 415, 422]
"""


def run(url: str, folder: Path, most: int, seed: int, *, page: bool = True) -> int:
    """The number of cases of a run with `most` random requests per operation, beside those of its limits.

    `page`: with the page's own routes, under /api and /page.

    Raises AssertionError, with schemathesis' report, for an answer that is not as described or a status of 5xx.
    """
    (folder / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    code = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [sys.executable, "-c", code, "--config-file", str(folder / "schemathesis.toml"), "run"]
    command += ["--phases", "coverage,fuzzing", "--max-examples", str(most), "--seed", str(seed), "--checks", "all"]
    command += ["--continue-on-failure", "--generation-database", "none", "--no-color", "--request-timeout", "60"]
    command += ["--max-response-time", "60", *([] if page else ["--exclude-path-regex", "^/(api|page)"])]
    command += [f"{url}/openapi.json"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "accepted", "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    report = "\n".join(line[:400] for line in done.stdout.splitlines())
    assert done.returncode == 0, f"seed {seed}\n{report[-12_000:]}{done.stderr[-2000:]}"
    found = re.search(r"(\d+) generated, (\d+) passed", report)
    assert found is not None and found[1] == found[2], report[-3000:]  # noqa: PT018
    return int(found[1])


def operations(url: str) -> int:
    """The number of operations that can be asked in more than one way."""
    paths = httpx2.get(f"{url}/openapi.json").json()["paths"]
    return sum("requestBody" in one or "parameters" in one for path in paths.values() for one in path.values())


def served(place: Path) -> Path:
    """A tiny chat model that writes any byte."""
    config = tiny(write(place / "talks.jsonl", conversations()), run={"steps": 60, "samples": 0})
    bpe = config.data.model_copy(update={"tokenizer": "bpe", "vocab_size": 300})
    train(config.model_copy(update={"data": bpe}), place / "served")
    return place / "served"


def main(cases: int, seed: int) -> int:
    """Run rounds until there are so many cases, those of failed rounds left out. The exit status is 1 if one failed."""
    done, failed, first, began = 0, 0, seed, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        with serving(served(place), log=place / "log") as server:
            while done < cases and failed < 3:
                most = math.ceil(min(ROUND, cases - done) / operations(server.url))
                try:
                    done += run(server.url, place, most, seed)
                except AssertionError as error:
                    print(error, flush=True)
                    failed += 1
                assert '"status": 500' not in server.log.read_text(), "a server error"
                seconds = time.monotonic() - began
                seed += 1
                print(f"{done:,} cases in {seconds:,.0f} s, {failed} of {seed - first} rounds failed", flush=True)
    return min(1, failed)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*given, *[200_000, 1][len(given) :]))
