"""All processes of a machine together keep a vendor's rate."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from tidings.backends.machine.buckets import SharedBucket, SharedBuckets
from tidings.policy.token_bucket import TokenBucket

TAKES = """
import sys, time
from pathlib import Path
from tidings.backends.machine.buckets import SharedBucket
bucket, taken, until = SharedBucket(Path(sys.argv[1]), 50, 200), 0, time.monotonic() + 1.0
while time.monotonic() < until:
    taken += bucket.take(1, int(time.monotonic() * 1000))
print(taken)
"""


def two(tmp_path: Path, rate: float = 10, burst: float = 5) -> tuple[TokenBucket, TokenBucket]:
    buckets = SharedBuckets(tmp_path / "rates")
    return buckets.bucket("twilio", rate, burst), buckets.bucket("twilio", rate, burst)


def test_processes_draw_from_the_same_bucket(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    assert one.take(3, 0)
    assert other.tokens(0) == 2
    assert not other.take(3, 0)
    assert other.take(3, 100)
    assert one.tokens(100) == 0
    assert one.wait_ms(1, 100) == 100
    assert other.tokens(1_000_000) == 5


def test_each_name_has_its_own_bucket(tmp_path: Path) -> None:
    buckets = SharedBuckets(tmp_path)
    assert buckets.bucket("a", 1, 1).take(1, 0)
    assert buckets.bucket("b", 1, 1).take(1, 0)


def test_a_process_that_starts_anew_finds_what_the_last_one_left(tmp_path: Path) -> None:
    one, _ = two(tmp_path)
    assert one.take(5, 1_000)
    assert not SharedBuckets(tmp_path / "rates").bucket("twilio", 10, 5).take(1, 1_001)


def test_after_the_machine_was_started_anew_it_is_full(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    assert one.take(5, 10_000_000)
    assert other.tokens(1_000) == 5


def test_another_rate_counts_from_now_on(tmp_path: Path) -> None:
    one, _ = two(tmp_path, burst=5)
    assert one.tokens(0) == 5
    assert SharedBuckets(tmp_path / "rates").bucket("twilio", 1, 2).tokens(0) == 2


def test_a_frozen_holder_of_the_lock_blocks_nobody(tmp_path: Path) -> None:
    one, _ = two(tmp_path)
    still = os.open(tmp_path / "rates" / "twilio", os.O_RDWR)
    fcntl.flock(still, fcntl.LOCK_EX)
    assert one.tokens(0) == 0
    assert not one.take(1, 0)
    os.close(still)
    assert one.take(1, 0)


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    two(tmp_path)
    assert (tmp_path / "rates").stat().st_mode & 0o077 == 0
    assert (tmp_path / "rates" / "twilio").stat().st_mode & 0o077 == 0


def test_processes_together_keep_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "bucket"
    SharedBucket(path, 50, 200)
    began = time.monotonic()
    takers = [
        subprocess.Popen([sys.executable, "-c", TAKES, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    taken = [int(taker.communicate(timeout=60)[0]) for taker in takers]
    assert 200 <= sum(taken) <= 200 + 50 * (time.monotonic() - began) + 1
