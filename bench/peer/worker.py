"""The peer's Celery tasks: load the user, check the preferences, render, call the vendor, write the status.

Messages are acknowledged after the work (`acks_late`) and retried with backoff when the vendor fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache

import minijinja
import requests
from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import insert, select, tuple_, update
from sqlalchemy.orm import Session

from bench.peer import settings
from bench.peer.models import Notification, OptOut, SessionLocal, StatusEvent, Template, User, engine

app = Celery("peer", broker=settings.REDIS_URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=16,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
)

_http = requests.Session()
_texts = minijinja.Environment()


@worker_process_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _after_fork(**_: object) -> None:
    """Drop the parent's database connections: a forked process must not use them."""
    engine.dispose(close=False)


@cache
def template(name: str, locale: str) -> Template:
    """Return a template in this locale, else in English; cached for the life of the process."""
    with SessionLocal() as db:
        found = db.get(Template, (name, locale)) or db.get(Template, (name, "en"))
    if found is None:
        raise LookupError(f"no template {name}")
    _texts.add_template(f"{name}.{found.locale}.subject", found.subject)
    _texts.add_template(f"{name}.{found.locale}.body", found.body)
    return found


def rendered(found: Template, data: dict[str, object]) -> tuple[str, str]:
    """Render subject and body."""
    start = f"{found.name}.{found.locale}"
    return _texts.render_template(f"{start}.subject", **data), _texts.render_template(f"{start}.body", **data)


def _record(db: Session, notification: Notification, status: str, provider_id: str = "") -> None:
    notification.status = status
    db.add(StatusEvent(notification_id=notification.id, status=status, provider_id=provider_id))
    db.commit()


def _text(user: User, body: str) -> str:
    answer = _http.post(
        f"{settings.TWILIO_URL}/2010-04-01/Accounts/AC0/Messages.json",
        data={"To": user.phone, "From": "+15005550006", "Body": body},
        auth=("AC0", "token"),
        timeout=10,
    )
    answer.raise_for_status()
    return str(answer.json()["sid"])


def _mail(subject: str, body: str, users: Sequence[User]) -> str:
    """Send one request with a personalization for each recipient of the same content."""
    answer = _http.post(
        f"{settings.SENDGRID_URL}/v3/mail/send",
        json={
            "from": {"email": "shop@example.com"},
            "personalizations": [{"to": [{"email": user.email, "name": user.name}]} for user in users],
            "subject": subject,
            "content": [{"type": "text/plain", "value": body}],
        },
        headers={"Authorization": "Bearer key"},
        timeout=30,
    )
    answer.raise_for_status()
    return answer.headers["x-message-id"]


@app.task(autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=3)  # type: ignore[untyped-decorator]
def deliver(notification_id: str) -> None:
    """Send one notification in a vendor request of its own."""
    with SessionLocal() as db:
        notification = db.get(Notification, uuid.UUID(notification_id))
        if notification is None or notification.status == "sent":
            return
        user = db.get(User, notification.user_id)
        if user is None:
            _record(db, notification, "failed")
            return
        found = template(notification.template, user.locale)
        if db.get(OptOut, (user.id, notification.category, found.channel)) is not None:
            _record(db, notification, "suppressed")
            return
        subject, body = rendered(found, notification.data)
        provider_id = _text(user, body) if found.channel == "sms" else _mail(subject, body, [user])
        _record(db, notification, "sent", provider_id)


@app.task(autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=3)  # type: ignore[untyped-decorator]
def deliver_many(notification_ids: list[str]) -> None:
    """Send many emails, those with equal content in one vendor request, and write their statuses in bulk."""
    with SessionLocal() as db:
        rows = db.execute(
            select(Notification, User)
            .join(User, User.id == Notification.user_id)
            .where(Notification.id.in_([uuid.UUID(id) for id in notification_ids]), Notification.status == "accepted")
        ).all()
        wanted = [(user.id, one.category, template(one.template, user.locale).channel) for one, user in rows]
        key = tuple_(OptOut.user_id, OptOut.category, OptOut.channel)
        refused = {
            (out.user_id, out.category, out.channel) for out in db.scalars(select(OptOut).where(key.in_(wanted)))
        }
        mails: dict[tuple[str, str], list[tuple[uuid.UUID, User]]] = {}
        events = []
        for (one, user), choice in zip(rows, wanted, strict=True):
            if choice in refused:
                events.append({"notification_id": one.id, "status": "suppressed", "provider_id": ""})
            else:
                content = rendered(template(one.template, user.locale), one.data)
                mails.setdefault(content, []).append((one.id, user))
        for (subject, body), recipients in mails.items():
            provider_id = _mail(subject, body, [user for _, user in recipients])
            events += [{"notification_id": id, "status": "sent", "provider_id": provider_id} for id, _ in recipients]
        for status in ("sent", "suppressed"):
            ids = [event["notification_id"] for event in events if event["status"] == status]
            if ids:
                db.execute(update(Notification).where(Notification.id.in_(ids)).values(status=status))
        if events:
            db.execute(insert(StatusEvent), events)
        db.commit()
