"""What makes notifications from requests, for the API and for a worker."""

from __future__ import annotations

from tidings.parts import Parts
from tidings.pipeline.accept.stage import Accept
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.policy.shares import Shares


def composing(parts: Parts) -> Composer:
    """The composer, which makes notifications from requests."""
    recipients = Recipients(parts.shard.users, parts.clock)
    return Composer(parts.renderer, parts.randomness.getrandbits, parts.settings.unserved, recipients)


def accepting(parts: Parts) -> Accept:
    """The first stage."""
    directory, shard = parts.directory, parts.shard
    return Accept(
        queue=parts.queue,
        renderer=parts.renderer,
        idempotency=directory.idempotency,
        history=shard.history,
        clock=parts.clock,
        randomness=parts.randomness.getrandbits,
        receipt_readers={
            provider.name: (channel, provider.receipts_with_unnamed)
            for channel, serving in parts.providers.items()
            for provider in serving
        },
        rules=parts.settings.overload.rules(),
        shares=Shares(parts.settings.fairness.rules()),
        count=parts.accepted.add,
        unserved=parts.settings.unserved,
        held=shard.schedule.held,
        recipients=Recipients(shard.users, parts.clock),
        revisit=parts.accepted.revisit,
    )
