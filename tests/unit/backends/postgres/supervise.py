"""A program that supervises a server on a data folder until it is killed. Prints the server's process id and DSN."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tidings.backends.postgres.server import Server

if __name__ == "__main__":
    server = Server(Path(sys.argv[1]))
    server.start()
    sys.stdout.write(f"{server.pid}\n{server.dsn}\n")
    sys.stdout.flush()
    threading.Event().wait()
