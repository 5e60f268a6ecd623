"""`tidings archive`, on a real database and real files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.stores import NOW, accepted, fact, notification
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.objects.folder import Folder
from tidings.backends.parquet.files import ParquetFiles
from tidings.backends.postgres.store import PostgresStore
from tidings.cli.application import run
from tidings.model.days import DAY_MS, day_of, day_text
from tidings.model.ids import NOTIFICATION_PREFIX, new_id, to_text
from tidings.model.notification import Notification
from tidings.model.vocabulary import State
from tidings.pipeline.rounds.retention import Retention
from tidings.telemetry.metrics import Metrics

OLD = NOW - 40 * DAY_MS
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tidings(
    postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("TIDINGS_DATABASE__DSN", postgres_dsn)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run([*arguments, "--data-dir", str(tmp_path)])
        written = capsys.readouterr()
        return code, written.out, written.err

    return command


@pytest.fixture
def archived(postgres_dsn: str, tmp_path: Path, tenant: str, capsys: pytest.CaptureFixture[str]) -> list[Notification]:
    """Two notifications: the first is archived, the second is not."""

    async def prepare() -> list[Notification]:
        store = await PostgresStore.open(postgres_dsn)
        try:
            sent = [notification(tenant, OLD), notification(tenant)]
            await store.history.append(
                [x for one in sent for x in (accepted(one), fact(one, State.SENT, provider="acme"))]
            )
            objects, clock = Folder(tmp_path / "objects"), VirtualClock(NOW)
            assert await Retention(store, store, objects, ParquetFiles(), clock, Metrics(), 30).once()
            return sent
        finally:
            await store.close()

    sent = asyncio.run(prepare())
    capsys.readouterr()
    return sent


def text(id: object) -> str:
    return to_text(NOTIFICATION_PREFIX, id)  # type: ignore[arg-type]


def test_the_days_are_listed(tidings: Command, archived: list[Notification]) -> None:
    code, out, _ = tidings("archive", "list")
    assert code == 0
    assert day_text(day_of(archived[0].id)) in out
    assert max(map(len, out.splitlines()[:5])) <= 80
    found = json.loads(tidings("archive", "list", "--json")[1])
    assert [(one["day"], one["notifications"], one["events"]) for one in found] == [
        (day_text(day_of(archived[0].id)), 1, 1)
    ]


def test_a_notification_is_shown_as_status_shows_it(
    tidings: Command, archived: list[Notification], tenant: str
) -> None:
    id = text(archived[0].id)
    code, out, err = tidings("archive", "show", id)
    assert code == 0, err
    assert out.startswith(f"{id}  sent")
    assert "attempt 1 at acme" in out
    found = json.loads(tidings("archive", "show", id, "--tenant", tenant, "--json")[1])
    assert (found["id"], found["state"], len(found["timeline"])) == (id, "sent", 3)


def test_a_notification_that_is_not_archived_is_reported_in_a_sentence(
    tidings: Command, archived: list[Notification]
) -> None:
    nowhere = new_id(NOW - 100 * DAY_MS, 0, 1)
    unknown = new_id(OLD, 0, 1)
    for id, tenant, told in (
        (text(archived[1].id), (), "is not archived: it is in the database"),
        (text(archived[0].id), ("--tenant", "other"), "of other in the archive of"),
        (text(unknown), (), "there is no notification"),
        (text(nowhere), (), "is not archived"),
        ("ntf_x", (), "is not an id of the form"),
    ):
        code, _, err = tidings("archive", "show", id, *tenant)
        assert code == 1
        assert told in err


def test_a_damaged_object_is_reported(tidings: Command, archived: list[Notification], tmp_path: Path) -> None:
    for file in (tmp_path / "objects").rglob("notifications-*.parquet"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    code, _, err = tidings("archive", "show", text(archived[0].id))
    assert code == 1
    assert "damaged" in err


def test_nothing_is_archived_yet(tidings: Command) -> None:
    assert tidings("archive", "list")[1] == "nothing has been archived\n"
