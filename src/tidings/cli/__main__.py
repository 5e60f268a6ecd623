"""`python -m tidings.cli`: how `up` starts its own children, whatever is on the PATH."""

from __future__ import annotations

from tidings.cli.application import main

main()
