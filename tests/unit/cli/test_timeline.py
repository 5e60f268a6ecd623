from __future__ import annotations

import re
from typing import Any

import pytest

from tidings.cli import timeline
from tidings.cli.timeline import WIDTH, entries
from tidings.cli.times import duration


def render(view: dict[str, Any]) -> list[str]:
    """The lines without their colours."""
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in timeline.render(view)]


def entry(at: str, state: str, **rest: Any) -> dict[str, Any]:
    blank = {"delivery": None, "channel": None, "attempt": 0, "provider": "", "reason": "", "detail": ""}
    return {"at": f"2026-03-01T12:00:{at}Z", "state": state, **blank, **rest}


def notification(**changes: Any) -> dict[str, Any]:
    email = {"delivery": "dlv_1", "channel": "email"}
    sms = {"delivery": "dlv_2", "channel": "sms"}
    view = {
        "id": "ntf_01h455vb4pex5vsknk084sn02q",
        "state": "delivered",
        "reason": "",
        "user_id": "demo",
        "category": "orders",
        "priority": "normal",
        "template": "order-confirmation",
        "template_version": 3,
        "channels": ["email", "sms"],
        "created_at": "2026-03-01T12:00:00.000Z",
        "send_at": None,
        "expires_at": None,
        "metadata": {},
        "deliveries": [
            {
                "id": "dlv_1",
                "channel": "email",
                "address": "demo@example.com",
                "state": "delivered",
                "provider": "sendgrid",
                "reason": "",
                "attempts": [{"number": 1}, {"number": 2}],
            },
            {
                "id": "dlv_2",
                "channel": "sms",
                "address": "",
                "state": "suppressed",
                "provider": "",
                "reason": "no_address",
                "attempts": [],
            },
        ],
        "timeline": [
            entry("00.010", "pending"),
            entry("00.010", "pending", **email),
            entry("00.050", "deferred", attempt=1, provider="sendgrid", reason="retry", detail="429 " * 40, **email),
            entry("02.300", "sent", attempt=2, provider="sendgrid", **email),
            entry("00.010", "suppressed", reason="no_address", **sms),
        ],
    }
    return view | changes


def test_everything_is_shown_in_80_columns() -> None:
    lines = render(notification())
    text = "\n".join(lines)
    assert max(len(line) for line in lines) <= WIDTH
    assert lines[0] == "ntf_01h455vb4pex5vsknk084sn02q  delivered"
    assert "order-confirmation (version 3), to demo, category orders" in text
    assert "email  demo@example.com: delivered by sendgrid after 2 attempts" in text
    assert "sms    (no address): suppressed" in text
    flat = " ".join(text.split())
    start = r"00\.050 \+50 ms deferred attempt 1 at sendgrid, retry \(is tried again\)"
    assert re.search(start + r", until 2026-03-01 \d\d:00:02, 429 429", flat)
    assert "02.300 +2.3 s sent attempt 2 at sendgrid" in flat
    assert "suppressed no_address (the user has no address on this channel)" in flat


def test_each_fact_is_shown_under_its_delivery() -> None:
    lines = render(notification())
    email = next(index for index, line in enumerate(lines) if line.startswith("email"))
    sms = next(index for index, line in enumerate(lines) if line.startswith("sms"))
    assert sum(" sent " in line for line in lines[email:sms]) == 1
    assert not any(" sent " in line for line in lines[sms:])


def test_mixed_entries_show_their_channel() -> None:
    view = notification()
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in entries(view["timeline"], view["created_at"], mixed=True)]
    assert max(len(line) for line in lines) <= WIDTH
    assert any(line.endswith("+2.3 s  email  sent       attempt 2 at sendgrid") for line in lines)
    assert any("  sms    suppressed no_address" in line for line in lines)


def test_long_addresses_are_shortened() -> None:
    view = notification()
    view["deliveries"][0]["address"] = "x" * 300
    lines = render(view)
    assert max(len(line) for line in lines) <= WIDTH
    assert any("…: delivered by sendgrid" in line for line in lines)


def test_a_waiting_notification_shows_its_send_time() -> None:
    text = "\n".join(render(notification(send_at="2026-03-02T09:00:00Z", template=None, user_id=None)))
    assert "send at 2026-03-" in text
    assert "to inline addresses" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0 ms"), (0.85, "850 ms"), (12.34, "12.3 s"), (245, "4 min 05 s"), (12_000, "3 h 20 min")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def waiting(at: str, reason: str, **rest: Any) -> dict[str, Any]:
    return entry(at, "deferred", delivery="dlv_1", channel="email", reason=reason, **rest)


def view_of(next_at: str | None, *told: dict[str, Any]) -> dict[str, Any]:
    view = notification(timeline=list(told))
    view["deliveries"] = [{**view["deliveries"][0], "state": "deferred", "next_at": next_at}]
    return view


def test_a_wait_for_a_provider_is_one_line_with_its_end() -> None:
    told = [
        waiting("01.000", "provider_failing", attempt=1, provider="smtp", detail="unreachable"),
        waiting("03.000", "provider_open", detail="smtp: unreachable"),
        waiting("07.000", "provider_open", detail="smtp: unreachable"),
    ]
    lines = render(view_of("2026-03-01T12:00:20.000Z", *told))
    text = " ".join(" ".join(lines).split())
    assert text.count("deferred") == 3 - 1 + 0, "the heading and one line"
    assert "01.000 +1.0 s deferred provider_open" in text
    assert re.search(r"until 2026-03-01 \d\d:00:20, smtp: unreachable, 3 looks", text)


def test_a_wait_that_is_over_ends_with_the_next_fact() -> None:
    told = [
        waiting("01.000", "throttled"),
        waiting("03.000", "throttled"),
        entry("09.000", "sent", delivery="dlv_1", channel="email", attempt=1, provider="smtp"),
        waiting("11.000", "retry", attempt=2, provider="smtp"),
        waiting("12.000", "retry", attempt=3, provider="smtp"),
    ]
    text = " ".join(" ".join(render(view_of(None, *told))).split())
    assert re.search(r"throttled \(the provider asked for fewer requests\), until 2026-03-01 \d\d:00:09, 2 looks", text)
    assert text.count("retry (is tried again)") == 2, "tries are told one by one"


def test_a_wait_for_a_time_says_until_when() -> None:
    general = [
        entry("01.000", "pending", reason="accepted"),
        entry("01.000", "deferred", reason="send_at"),
        entry("04.000", "deferred", reason="changed"),
    ]
    view = notification(timeline=general, next_at="2026-03-02T09:00:00.000Z")
    text = " ".join(" ".join(render(view)).split())
    assert re.search(r"send_at \(waits for its send time\), until 2026-03-01 \d\d:00:04", text)
    assert re.search(r"changed \(was changed; waits for its send time\), until 2026-03-02 \d\d:00:00", text)
    quiet = waiting("01.000", "quiet_hours")
    text = " ".join(" ".join(render(view_of("2026-03-01T12:30:00.000Z", quiet))).split())
    assert re.search(r"quiet hours are over\), until 2026-03-01 \d\d:30:00", text)


def test_follow_shows_a_wait_once() -> None:
    told = [
        waiting("01.000", "throttled"),
        {**waiting("02.000", "throttled"), "delivery": "dlv_2"},
        waiting("03.000", "provider_open"),
        entry("04.000", "sent", delivery="dlv_1"),
        waiting("05.000", "throttled"),
    ]
    assert [timeline.goes_on_waiting(told, place) for place in range(5)] == [False, False, True, False, False]
