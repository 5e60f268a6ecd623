"""Builds the body of a request to FCM's HTTP v1 API.

Facts, and the page for each:

- The fields: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages.
- How long a push is kept for a device that is off, up to 28 days: `android.ttl`, Apple's `apns-expiration` (an instant)
  and Web Push's `TTL`:
  https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan.
- How urgent it is: https://firebase.google.com/docs/cloud-messaging/android-message-priority, `apns-priority` 10 and 5
  (https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns) and `Urgency`
  (RFC 8030 section 5.3). Normal priority leaves this to FCM's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import PushDelivery
from tidings.model.vocabulary import Priority

_LONGEST_KEPT_S = 28 * 86_400


class _Notification(Struct):
    title: str
    body: str


class _Message(Struct, omit_defaults=True):
    token: str
    notification: _Notification
    data: dict[str, str]
    webpush: dict[str, dict[str, str]] | None = None
    android: dict[str, str] | None = None
    apns: dict[str, dict[str, str]] | None = None


class _Request(Struct):
    message: _Message


_URGENCY: Mapping[Priority, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    Priority.CRITICAL: ({"priority": "high"}, {"apns-priority": "10"}, {"Urgency": "high"}),
    Priority.BULK: ({"priority": "normal"}, {"apns-priority": "5"}, {"Urgency": "low"}),
}
"""For a priority: the fields for Android, for Apple's push service and for Web Push."""

_encode = msgspec.json.Encoder().encode


def encoded(delivery: PushDelivery, now: int) -> bytes:
    """The body of the request that sends `delivery` at `now` (milliseconds since the epoch).

    Raises UnicodeEncodeError when a text or the token is not valid Unicode.
    """
    return _encode(_request(delivery, now))


def _request(delivery: PushDelivery, now: int) -> _Request:
    content = delivery.content
    data = {"delivery_id": to_text(DELIVERY_PREFIX, delivery.id)}
    android, apns, webpush = _URGENCY.get(delivery.priority, ({}, {}, {}))
    if delivery.expires_at is not None:
        left_s = min(max(0, delivery.expires_at - now) // 1000, _LONGEST_KEPT_S)
        android = {**android, "ttl": f"{left_s}s"}
        apns = {**apns, "apns-expiration": str(min(delivery.expires_at // 1000, now // 1000 + _LONGEST_KEPT_S))}
        webpush = {**webpush, "TTL": str(left_s)}
    for_web = {"headers": webpush} if webpush else {}
    if content.link is not None:
        data["link"] = content.link
        # FCM refuses the whole message when a web push link is not https.
        if content.link.startswith("https://"):
            for_web["fcm_options"] = {"link": content.link}
    return _Request(
        _Message(
            delivery.to,
            _Notification(content.title, content.body),
            data,
            for_web or None,
            android or None,
            {"headers": apns} if apns else None,
        )
    )
