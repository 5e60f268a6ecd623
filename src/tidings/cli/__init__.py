"""The command line: thin commands over the rooms below. `main` is the entry point."""

from __future__ import annotations

from tidings.cli.application import main

__all__ = ["main"]
