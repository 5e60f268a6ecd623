"""Setbacks: the pauses of a loop that fails, and what is counted."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.setbacks import LONGEST_S, SHORTEST_S, Setbacks
from tidings.telemetry.metrics import Metrics

LOG = structlog.get_logger("test")


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    setbacks = Setbacks(LOG, None, "stage")
    assert [setbacks.note(Unavailable("away")) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    setbacks.over()
    assert setbacks.note(Unavailable("away")) == SHORTEST_S
    assert LONGEST_S == 10


def test_a_loop_can_have_a_longest_pause_of_its_own() -> None:
    setbacks = Setbacks(LOG, None, "stage", longest_s=1.5)
    with capture_logs():
        assert [setbacks.note(ZeroDivisionError()) for _ in range(4)] == [0.5, 1, 1.5, 1.5]


@pytest.mark.parametrize(("error", "kind"), [(Unavailable("away"), "unavailable"), (ValueError("x"), "error")])
def test_each_failure_is_counted_by_its_kind(error: Exception, kind: str) -> None:
    metrics = Metrics()
    setbacks = Setbacks(LOG, metrics, "route", "requests.normal")
    with capture_logs():
        for _ in range(2):
            setbacks.note(error)
    labels = {"stage": "route", "topic": "requests.normal", "kind": kind}
    assert metrics.value("tidings_stage_failures_total", labels) == 2


def test_an_outage_is_told_once_and_every_mistake_each_time() -> None:
    setbacks = Setbacks(LOG, None, "stage")
    with capture_logs() as told:
        setbacks.note(Unavailable("away"))
        setbacks.note(Unavailable("away"))
        setbacks.over()
        setbacks.note(Unavailable("away"))
        setbacks.note(ZeroDivisionError())
        setbacks.note(ZeroDivisionError())
    assert [entry["log_level"] for entry in told] == ["warning", "warning", "error", "error"]
