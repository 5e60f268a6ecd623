"""Content in a request: the structs of model/notification.py, but refusing unknown fields.

The model's structs travel through queues and the store, where this version must be able to read what the next version
wrote. In a request, an unknown field is a mistake of the sender.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent

P = TypeVar("P", EmailContent, SmsContent, PushContent, InappContent)


class EmailContentRequest(EmailContent, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """An email. At least one of `text` and `html`."""


class SmsContentRequest(SmsContent, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A text message."""


class PushContentRequest(PushContent, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A push notification; `link` is opened when it is tapped."""


class InappContentRequest(InappContent, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """An item of the user's inbox; `link` is opened when it is clicked."""


class ContentRequest(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Content per channel: literal, or (in a template) source text."""

    email: EmailContentRequest | None = None
    sms: SmsContentRequest | None = None
    push: PushContentRequest | None = None
    inapp: InappContentRequest | None = None

    def content(self) -> Content:
        """The same content as a struct of the model."""
        return Content(
            email=_as(EmailContent, self.email),
            sms=_as(SmsContent, self.sms),
            push=_as(PushContent, self.push),
            inapp=_as(InappContent, self.inapp),
        )


def _as(kind: type[P], part: P | None) -> P | None:
    return None if part is None else kind(**msgspec.structs.asdict(part))
