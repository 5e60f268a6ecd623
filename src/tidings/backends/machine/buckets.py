"""Token buckets that the processes of one machine share, so that all workers together keep a vendor's rate."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidings.policy.token_bucket import TokenBucket

_STATE = struct.Struct("<dd")
_NEVER = -1.0
_LONGEST_LEAD_MS = 3_600_000.0
"""Milliseconds. A bucket that was filled further in the future than this was filled before the machine restarted."""


class SharedBucket(TokenBucket):
    """See TokenBucket. Its state is in a file. Instants are of a clock that all processes of the machine share.

    While another process holds the file's lock, the bucket counts as empty, so that no process waits for a frozen one.
    """

    def __init__(self, path: Path, rate: float, burst: float) -> None:
        super().__init__(rate, burst)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < _STATE.size:
            os.pwrite(self._file, _STATE.pack(burst, _NEVER), 0)
        self._memory = mmap.mmap(self._file, _STATE.size)
        self._depth = 0

    def tokens(self, now: int) -> float:
        """See TokenBucket."""
        with self._held(now) as held:
            return super().tokens(now) if held else 0.0

    def take(self, count: float, now: int, leave: float = 0.0) -> bool:
        """See TokenBucket."""
        with self._held(now) as held:
            return held and super().take(count, now, leave)

    @contextmanager
    def _held(self, now: int) -> Iterator[bool]:
        """Lock the file and load its state for the block. Gives False if another process holds the lock."""
        if self._depth:
            yield True
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        self._depth = 1
        try:
            tokens, filled_at = _STATE.unpack_from(self._memory)
            if filled_at == _NEVER or filled_at > now + _LONGEST_LEAD_MS:
                tokens, filled_at = self.burst, float(now)
            self._tokens, self._filled_at = min(tokens, self.burst), int(filled_at)
            yield True
            _STATE.pack_into(self._memory, 0, self._tokens, float(self._filled_at))
        finally:
            self._depth = 0
            fcntl.flock(self._file, fcntl.LOCK_UN)


class SharedBuckets:
    """Shared buckets by name, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def bucket(self, name: str, rate: float, burst: float) -> TokenBucket:
        """The bucket with this name. Raises OSError if the folder cannot be written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SharedBucket(self._folder / name, rate, burst)
