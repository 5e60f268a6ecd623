"""`python -m tidings.cli`: `tidings up` starts its children this way, independent of the PATH."""

from __future__ import annotations

from tidings.cli.application import main

main()
