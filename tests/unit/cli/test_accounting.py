from __future__ import annotations

from typing import Any

import pytest

from tidings.cli.accounting import _instant, health, verdict
from tidings.cli.plain import CannotGoOn


def account(accepted: int, missing: int = 0, flying: int = 0) -> dict[str, Any]:
    return {"notifications": {"accepted": accepted, "missing": missing, "in_flight": {"total": flying}}}


def test_closed_sums_are_reported_in_a_sentence() -> None:
    told = verdict([account(1200, flying=3), account(5)])
    assert told == "The sums close: 1,205 accepted, 3 of them in flight, none missing."


def test_missing_notifications_are_reported_in_a_sentence() -> None:
    assert verdict([account(10, missing=2), account(1)]).startswith("2 accepted notifications are MISSING")


def test_the_health_is_read_from_metrics() -> None:
    series = {
        "tidings_canary_timestamp_seconds": 990.0,
        "tidings_canary_failures_total": 2.0,
        "tidings_audit_timestamp_seconds": 0.0,
        'tidings_swept_total{result="requeued"}': 4.0,
        'tidings_stuck{kind="backlog"}': 7.0,
        'tidings_stuck{kind="aside"}': 1.0,
    }
    assert health(series, 1000.0) == [
        "canary   arrived 10.0 s ago; 2 failed since the start",
        "audit    not yet; 4 swept and 0 given up since the start",
        "stuck    7 behind others in a queue, 1 put aside as unreadable",
    ]


def test_a_day_begins_at_midnight_utc() -> None:
    assert _instant("1970-01-02") == 86_400_000
    assert _instant("1970-01-02T01:00:00+01:00") == 86_400_000
    assert _instant(None) is None
    with pytest.raises(CannotGoOn, match="is not a time"):
        _instant("yesterday")
