"""What a key or a cursor does not reach: forged positions, and reading by changing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from support.api import TENANT, Api
from tidings.api import cursors
from tidings.api.samples import DEMO_TEMPLATE
from tidings.model import topics
from tidings.model.ids import NOTIFICATION_PREFIX, new_id, to_text
from tidings.model.notification import Notification, Recipient
from tidings.model.outcome import Outcome, Wait
from tidings.model.tenant import Scope
from tidings.model.vocabulary import State
from tidings.model.wire import encode
from tidings.templating.check import is_name

SMS = {"sms": {"text": "hello"}}
DEMO = {"user_id": "demo"}
LISTINGS = {
    "notifications": "/v1/notifications",
    "dead-letters": "/v1/dead-letters",
    "replays": "/v1/replays",
    "recurrences": "/v1/recurrences",
    "templates": "/v1/templates",
    "suppressions": "/v1/suppressions",
    "inbox demo": "/v1/users/demo/inbox",
    f"versions/{DEMO_TEMPLATE}": f"/v1/templates/{DEMO_TEMPLATE}/versions",
}
FORGED = [
    "",
    "garbage",
    "\0",
    "a\0b",
    "null",
    "5",
    "[]",
    "{}",
    '["sms",5]',
    '["fax","a"]',
    '["sms"]',
    '["email","a\\u0000"]',
    '["email",""]',
    "[" * 100,
    "ntf_",
    "ntf_zzzzzzzzzzzzzzzzzzzzzzzzzz",
    "dlv_01k0000000000000000000000u",
    "ntf_01K0000000000000000000000",
    "é" * 500,
    "..",
    "a b",
    "'; --",
    "-1",
    "9" * 40,
]


@pytest.mark.parametrize("listing", LISTINGS)
async def test_a_forged_cursor_is_refused(api: Api, listing: str) -> None:
    """The checksum of a cursor is no secret, so a forged cursor may have a right checksum and a bad position."""
    for position in FORGED:
        cursor = cursors.encode(TENANT, listing, position)
        answer = await api.get(f"{LISTINGS[listing]}?cursor={cursor}")
        if (listing == "templates" and is_name(position)) or (listing.startswith("versions/") and position == "5"):
            continue  # a name, or a number, is a position, whoever wrote it
        assert answer.status == 400, (listing, position, answer.body)
        assert answer.json()["code"] == "invalid_cursor"


class TestScopes:
    async def test_a_key_that_may_only_send_reads_nothing_by_changing(self, api: Api) -> None:
        sender = await api.key(TENANT, Scope.SEND)
        body = {"rrule": "FREQ=DAILY", "start": "2026-01-01T09:00", "request": {"to": DEMO, "content": SMS}}
        id = (await api.post("/v1/recurrences", body)).json()["id"]
        assert (await api.get(f"/v1/recurrences/{id}", key=sender)).status == 403
        for answer in (
            await api.patch(f"/v1/recurrences/{id}", {"name": "x"}, key=sender),
            await api.post(f"/v1/recurrences/{id}/pause", key=sender),
            await api.post(f"/v1/recurrences/{id}/resume", key=sender),
        ):
            assert answer.status == 200
            assert set(answer.json()) == {"id", "state"}
        assert "request" in (await api.patch(f"/v1/recurrences/{id}", {"name": "y"})).json()

    async def test_a_key_that_may_only_send_does_not_read_a_notification_by_changing_it(self, api: Api) -> None:
        now = api.world.clock.now()
        waiting = Notification(
            new_id(now, 0, 1), TENANT, Recipient("demo"), now, send_at=now + 60_000, metadata=b'{"secret":1}'
        )
        wait = Wait(now + 60_000, topics.REQUESTS[1], f"{TENANT}/demo", encode(replace(waiting, step=1)))
        fact = Outcome(waiting.id, TENANT, now, State.DEFERRED, reason="send_at", notification=waiting, wait=wait)
        await api.world.store.history.append([fact])
        path = f"/v1/notifications/{to_text(NOTIFICATION_PREFIX, waiting.id)}"
        sender = await api.key(TENANT, Scope.SEND)
        changed = await api.patch(path, {"priority": "bulk"}, key=sender)
        assert (changed.status, changed.json()) == (200, {"id": path.rpartition("/")[2], "state": "deferred"})
        assert (await api.patch(path, {"priority": "normal"})).json()["metadata"] == {"secret": 1}
