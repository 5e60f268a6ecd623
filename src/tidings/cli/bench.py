"""`tidings bench`: the benchmarks, if this is a clone of the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import typer

from tidings.cli.plain import CannotGoOn, command_line

app = command_line()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Run the benchmarks, in a clone of the repository.

    Options are passed on to them.
    """
    here = Path(__file__).resolve()
    root = next((folder for folder in here.parents if (folder / "bench" / "__main__.py").exists()), None)
    if root is None:
        raise CannotGoOn("the benchmarks are not part of the package: clone the repository and run `make bench` in it")
    sys.exit(subprocess.call([sys.executable, "-m", "bench", *context.args], cwd=root))  # noqa: S603
