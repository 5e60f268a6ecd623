"""From which instant on things are kept."""

from __future__ import annotations

import pytest

from tidings.policy.keeping import Keeping


@pytest.mark.parametrize(
    ("age_ms", "now", "before"), [(100, 1_000, 900), (1_000, 1_000, 0), (1_001, 1_000, 0), (1, 1, 0), (0, 1_000, 0)]
)
def test_what_is_older_than_its_age_goes_and_age_0_keeps_everything(age_ms: int, now: int, before: int) -> None:
    assert Keeping().before(age_ms, now) == before
