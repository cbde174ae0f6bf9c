"""The types of the page's modules, checked by TypeScript: python -m tests.serve.page.check_types

It is installed with npm into .venv/page-check, in the version below. Without npm or a network that is said, no more;
CI has both, so there it is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TYPESCRIPT = "5.9.3"
HERE = Path(__file__).parent
FOLDER = HERE.parents[2] / ".venv" / "page-check"
COMPILER = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"


def main() -> int:
    """The exit status of the compiler."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        return unchecked("npm is not installed (Debian: apt-get install npm)")
    done = FOLDER / TYPESCRIPT
    if not done.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--silent", "--ignore-scripts", f"--prefix={FOLDER}"]
        if subprocess.call([npm, "install", *options, f"typescript@{TYPESCRIPT}"]):
            return unchecked(f"npm cannot install typescript {TYPESCRIPT} into {FOLDER}; is there a network?")
        done.touch()
    return subprocess.call([node, str(COMPILER), "--project", str(HERE / "jsconfig.json")])


def unchecked(why: str) -> int:
    """Say why nothing was checked; the exit status."""
    print(f"the types of the page's modules were not checked: {why}", file=sys.stderr)
    return int("CI" in os.environ)


if __name__ == "__main__":
    sys.exit(main())
