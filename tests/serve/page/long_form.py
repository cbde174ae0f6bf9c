"""All tests of the page at every width, in both schemes, and by keyboard: `make test-page`. The suite has them at one.

python -m tests.serve.page.long_form [WORD ...]    # further words are pytest's
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.serve.page.conftest import WIDTHS


def main(words: list[str]) -> int:
    """The exit status is the number of combinations in which a test failed."""
    failed = 0
    ways = [{"PAGE_WIDTH": str(width), "PAGE_SCHEME": scheme} for width in WIDTHS for scheme in ("light", "dark")]
    for way in [*ways, {"PAGE_KEYS": "1"}]:
        print(" ".join(f"{name}={value}" for name, value in way.items()), flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/serve/page", *words]
        failed += subprocess.run(command, env=os.environ | way).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
