"""The fused rung's suite on an emulated ARM: `make test-arm`, on Debian, without root.

QEMU's user mode runs a program of another architecture on this system's kernel. The emulator, Python and its libraries
come from Debian's archive, the wheels from the Python index, all unpacked in one folder; nothing is installed.

    python -m tests.arm FOLDER [ARGUMENT ...]      arguments for pytest instead of the rung's suite

Emulated code takes 20 to 50 times as long, so a part of the suite can be named. Code of another architecture than ARM's
64 bits is in tests/cpus.py.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from tests.cpus import ROOT, SUITE

CPU = "cortex-a72"  # a Raspberry Pi 4's: NEON without anything newer, so that what it runs all others do
# QEMU passes this machine's /proc/cpuinfo on, by which LLVM would know no ARM; the file in the folder goes before it.
CPUINFO = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
TESTING = ["pytest", "pytest-xdist", "hypothesis"]


def unpack(folder: Path) -> None:
    """The emulator, and Python with the libraries that it and the wheels need, unpacked from Debian's packages.

    apt-get resolves and downloads them with a state of its own, in which nothing is installed.
    """
    apt = folder / "apt"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    here = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    settings = {"Dir::State": "state", "Dir::State::status": "status", "Dir::Cache": "cache"}
    options = [f"-o{name}={apt / path}" for name, path in settings.items()]
    options += [f"-oAPT::Architectures::={name}" for name in (here, "arm64")]
    packages = [f"qemu-user-static:{here}", "python3:arm64", "libstdc++6:arm64"]
    subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
    get = ["apt-get", "-qq", *options, "install", "--yes", "--no-install-recommends", "--download-only", *packages]
    subprocess.run(get, check=True)
    for package in (apt / "cache/archives").glob("*.deb"):
        subprocess.run(["dpkg", "--extract", package, folder / "root"], check=True)
    (folder / "root/proc").mkdir(exist_ok=True)
    (folder / "root/proc/cpuinfo").write_text(CPUINFO, encoding="ascii")


def install(folder: Path, version: str) -> None:
    """The wheels for ARM of what microgpt and its tests need, of the versions that all tests run with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    libc = int(platform.libc_ver()[1].split(".")[1])  # this Debian's, as all that was unpacked
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, libc + 1))]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--target", str(folder / "site")]
    command += ["--only-binary=:all:", "--python-version", version, *(f"--platform={name}" for name in platforms)]
    subprocess.run([*command, *project["dependencies"], *TESTING], check=True)


def emulated(folder: Path) -> tuple[Path, str]:
    """A script that is the emulated Python, also for what the tests start with sys.executable; and its version."""
    root, script = folder / "root", folder / "python"
    name = (root / "usr/bin/python3").readlink().name
    qemu = [root / "usr/bin/qemu-aarch64-static", "-cpu", CPU, "-L", root, "-0", script, root / "usr/bin" / name]
    variables = {"PYTHONHOME": root / "usr", "PYTHONPATH": folder / "site"}
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
    script.write_text("\n".join(["#!/bin/sh", *lines, f'exec {shlex.join(map(str, qemu))} "$@"', ""]), encoding="utf-8")
    script.chmod(0o755)
    return script, name.removeprefix("python")


def main(words: list[str]) -> int:
    """Prepare the folder where it is not, and run the suite there; pytest's exit status."""
    if not words:
        return print(__doc__) or 2
    folder = Path(words[0]).absolute()
    lacking = [name for name in ("apt-get", "dpkg") if not shutil.which(name)]
    if lacking:
        print(f"tests.arm: needs Debian's {' and '.join(lacking)}; on an ARM of your own: make test")
        return 2
    ready = folder / "ready"
    try:
        if not ready.exists():
            unpack(folder)
            install(folder, emulated(folder)[1])
            ready.touch()
    except subprocess.CalledProcessError as error:
        print(f"tests.arm: {Path(error.cmd[0]).name} failed, see above; remove {folder} to begin anew")
        return 2
    python, version = emulated(folder)
    environment = {**os.environ, "MICROGPT_CACHE_DIR": str(folder / "cache")}
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--durations=10", *(words[1:] or SUITE)]
    start = time.perf_counter()
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    seconds = time.perf_counter() - start
    print(f"{CPU}, Python {version}: {'FAILED' if status else 'passed'}, {seconds:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
