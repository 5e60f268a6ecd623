"""The peer's HTTP API: FastAPI with pydantic models; for each request a SQLAlchemy session and a Celery message."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import insert
from sqlalchemy.orm import Session

from bench.peer import settings
from bench.peer.models import Notification, SessionLocal, StatusEvent
from bench.peer.worker import deliver, deliver_many


class Recipient(BaseModel):
    """The person to notify."""

    user_id: str = Field(min_length=1, max_length=200)


class NotificationIn(BaseModel):
    """A request for one notification."""

    to: Recipient
    template: str = Field(min_length=1, max_length=100)
    data: dict[str, Any] = {}
    category: str = "transactional"


class NotificationOut(BaseModel):
    """The answer for one notification."""

    id: uuid.UUID
    status: str = "accepted"


class BatchIn(BaseModel):
    """A batch request."""

    notifications: list[NotificationIn] = Field(min_length=1, max_length=1000)


class BatchOut(BaseModel):
    """The answers to a batch, in order."""

    notifications: list[NotificationOut]


def session() -> Iterator[Session]:
    """Yield a database session for the request."""
    with SessionLocal() as opened:
        yield opened


async def authorized(authorization: Annotated[str, Header()] = "") -> None:
    """Refuse a request without the API key."""
    if not secrets.compare_digest(authorization, f"Bearer {settings.API_KEY}"):
        raise HTTPException(401, "unknown API key")


app = FastAPI(dependencies=[Depends(authorized)])


@app.post("/v1/notifications", status_code=202)
def create(body: NotificationIn, db: Annotated[Session, Depends(session)]) -> NotificationOut:
    """Accept one notification: two rows and a commit, then a Celery message."""
    notification = Notification(
        id=uuid.uuid4(), user_id=body.to.user_id, template=body.template, category=body.category, data=body.data
    )
    db.add(notification)
    db.flush()
    db.add(StatusEvent(notification_id=notification.id, status="accepted"))
    db.commit()
    deliver.delay(str(notification.id))
    return NotificationOut(id=notification.id)


@app.post("/v1/notifications/batch", status_code=202)
def create_many(body: BatchIn, db: Annotated[Session, Depends(session)]) -> BatchOut:
    """Accept a batch: two bulk inserts and a commit, then a Celery message for each chunk."""
    ids = [uuid.uuid4() for _ in body.notifications]
    db.execute(
        insert(Notification),
        [
            {"id": id, "user_id": one.to.user_id, "template": one.template, "category": one.category, "data": one.data}
            for id, one in zip(ids, body.notifications, strict=True)
        ],
    )
    db.execute(insert(StatusEvent), [{"notification_id": id, "status": "accepted"} for id in ids])
    db.commit()
    for start in range(0, len(ids), settings.CHUNK):
        deliver_many.delay([str(id) for id in ids[start : start + settings.CHUNK]])
    return BatchOut(notifications=[NotificationOut(id=id) for id in ids])
