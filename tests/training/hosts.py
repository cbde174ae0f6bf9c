"""Two hosts train one model by torchrun: network namespaces of this machine, joined by a cable that is not there.

    python -m tests.training.hosts          as root, with Debian's iproute2; Linux only

They share the disk, as machines of a cluster do. Told are the difference from one process, and the end of one host
after the other is lost, which waits for TIMEOUT seconds where nobody tells of it; one process then goes on alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microgpt.runs import checkpoint
from tests.training.processes_long import require
from tests.training.test_processes import LIMIT, difference, write_alone, write_texts

NAMES = ("microgpt-a", "microgpt-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CABLE = ("mgpt-a", "mgpt-b")
STEPS = 1_000_000
TIMEOUT = 10


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def hosts() -> Iterator[None]:
    """Two namespaces, each with a loopback of its own and an end of the cable."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
        for name, end, address in zip(NAMES, CABLE, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name])


def start(host: int, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """A torchrun on a host, with two processes; both hosts are given the same words."""
    within = ["ip", "netns", "exec", NAMES[host], sys.executable, "-m", "torch.distributed.run"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500", "--local-addr", ADDRESSES[host]]
    conf = f"--rdzv-conf=is_host={int(host == 0)},join_timeout=60,last_call_timeout=1"
    flags = ["--nnodes", "2", "--nproc-per-node", "2", *meeting, conf, *words]
    variables = {"GLOO_SOCKET_IFNAME": CABLE[host], "MICROGPT_PROCESS_TIMEOUT": f"{TIMEOUT}", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(
            [*within, *flags], stdout=file, stderr=file, env=os.environ | variables, start_new_session=True
        )


def equal(folder: Path) -> None:
    """The cases of together.py, of which the last ends by the death of a process."""
    began = time.perf_counter()
    logs = [folder / f"log-{host}" for host in (0, 1)]
    jobs = [start(host, log, "-m", "tests.training.together", str(folder)) for host, log in enumerate(logs)]
    for job in jobs:
        job.wait(600)
    pairs = (("plain", "plain"), ("shard", "plain"), ("chats", "chats"), ("adapters", "adapters"), ("parts", "plain"))
    for ours, _ in pairs:
        require(
            (folder / f"{ours}-4").exists(), f"{ours} is there:\n" + "\n".join(log.read_text()[-3000:] for log in logs)
        )
    found = {ours: difference(folder / f"{ours}-4", folder / theirs) for ours, theirs in pairs}
    require(max(found.values()) < LIMIT, f"{found}")
    told = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    print(f"two hosts of two processes against one process: {told} ({time.perf_counter() - began:.0f} s)", flush=True)


def lost(folder: Path, name: str) -> None:
    """In the middle of a run the processes of a host are killed, or its cable is pulled, of which nobody is told."""
    out, logs = folder / name, [folder / f"log-{host}" for host in (0, 1)]
    train = ["train", str(folder / "names.txt"), "--engine", "pytorch", "--batch-size", "8", "--checkpoint-every", "50"]
    words = ["-m", "microgpt", *train, "--steps", str(STEPS), "--samples", "0", "--out", str(out)]
    jobs = [start(host, log, *words) for host, log in enumerate(logs)]
    while not checkpoint.list_steps(out / "checkpoints"):
        require(jobs[0].poll() is None, logs[0].read_text()[-3000:])
        time.sleep(0.1)
    if name == "killed":
        for pid in pids(NAMES[1]):
            os.kill(pid, signal.SIGKILL)
    else:
        ip("-n", NAMES[1], "link", "set", CABLE[1], "down")
    began = time.monotonic()
    jobs[0].wait(120)
    seconds = time.monotonic() - began
    require(not pids(NAMES[0]), "no process is left")
    newest = checkpoint.read(out, "last")
    newest.tensors()
    said = next((line for line in logs[0].read_text().splitlines() if line.startswith("microgpt: ")), "")
    require(said, logs[0].read_text()[-3000:])
    print(f"{name}: the other host ends after {seconds:.1f} s, its checkpoint of step {newest.step} is whole: {said}")
    again = ["train", "--resume", "--steps", str(newest.step + 5), "--out", str(out)]
    require(subprocess.run([sys.executable, "-m", "microgpt", *again]).returncode == 0, "one process goes on")


def pids(name: str) -> list[int]:
    """The processes on a host."""
    told = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in told.split()]


def main() -> None:
    if os.geteuid() or not shutil.which("ip"):
        sys.exit("needs root and iproute2, for network namespaces")
    with tempfile.TemporaryDirectory() as place, hosts():
        folder = Path(place)
        write_texts(folder)
        write_alone(folder)
        equal(folder)
        lost(folder, "killed")
        lost(folder, "cut off")


if __name__ == "__main__":
    main()
