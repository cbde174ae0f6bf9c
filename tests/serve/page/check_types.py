"""The types of the page's modules, checked by TypeScript: python -m tests.serve.page.check_types

It is installed with npm into .venv/page-check, in the version below; where npm is missing, that is said, and no more.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TYPESCRIPT = "5.9.3"
HERE = Path(__file__).parent
FOLDER = HERE.parents[2] / ".venv" / "page-check"
COMPILER = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"


def main() -> int:
    """The exit status of the compiler; 0 where there is no npm."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        print("the types of the page's modules were not checked: npm is not installed (Debian: apt-get install npm)")
        return 0
    done = FOLDER / TYPESCRIPT
    if not done.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--silent", "--ignore-scripts", f"--prefix={FOLDER}"]
        if code := subprocess.call([npm, "install", *options, f"typescript@{TYPESCRIPT}"]):
            print(f"npm cannot install typescript {TYPESCRIPT} into {FOLDER}; is there a network?", file=sys.stderr)
            return code
        done.touch()
    return subprocess.call([node, str(COMPILER), "--project", str(HERE / "jsconfig.json")])


if __name__ == "__main__":
    sys.exit(main())
