"""Stands in for `microgpt train` in the tests of sweeps: 20 ms instead of a second, and it fails as it is told.

data.text_field tells it how; run.toml, metrics.jsonl, the lock and the exit statuses are as the trainer has them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import tomllib

FAILURES = {
    "diverges": (6, "step 3: the loss is not finite"),
    "usage": (2, "optim.eps: must be less"),
    "full": (5, "x: cannot be written (No space left on device); free some space and continue with --resume"),
}


def main(words: list[str]) -> int:
    out = words[words.index("--out") + 1]
    os.makedirs(out, exist_ok=True)
    lock = open(f"{out}/.lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    resumed = "--resume" in words
    if not resumed:
        assert not os.path.exists(f"{out}/run.toml"), "begun twice"
        with open(words[words.index("--config") + 1]) as given, open(f"{out}/run.toml", "w") as copy:
            copy.write(given.read())
    with open(f"{out}/run.toml", "rb") as file:
        config = tomllib.load(file)
    with open(f"{out}/begun", "a") as log:
        log.write("resumed\n" if resumed else "begun\n")
    told, rate = config["data"]["text_field"], config["optim"]["learning_rate"]
    if told in FAILURES:
        status, reason = FAILURES[told]
        print(f"microgpt: {reason}", file=sys.stderr)
        return status
    if told == "killed" or (told == "killed once" and not resumed):
        os.kill(os.getpid(), signal.SIGKILL)
    with open(f"{out}/metrics.jsonl", "w") as metrics:
        for step in range(1, 4):
            metrics.write(f'{{"step": {step}, "val_loss": {rate + 1 / step!r}, "bits_per_byte": {rate * 2!r}}}\n')
            metrics.flush()
            if told == "waits" or (told == "worst waits" and rate > 1):
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
                time.sleep(60)
    time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
