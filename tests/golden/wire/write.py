"""Writes the golden files of a version, with that version's code.

    git worktree add /tmp/tidings-0.1.0 17bd7be
    PYTHONPATH=/tmp/tidings-0.1.0/src:tests .venv/bin/python tests/golden/wire/write.py 0.1.0

A version's files never change once it is in use. A new version gets a folder of its own when its bytes differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.wire import WRITTEN

HERE = Path(__file__).resolve().parent


def main() -> None:
    folder = HERE / sys.argv[1]
    folder.mkdir(exist_ok=True)
    for name, write in WRITTEN.items():
        (folder / f"{name}.bin").write_bytes(write())
    sys.stdout.write(f"{len(WRITTEN)} files in {folder}\n")


if __name__ == "__main__":
    main()
