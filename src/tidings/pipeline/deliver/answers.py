"""A provider's answers to a call, and whom each is about: one delivery, the whole account, or nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from tidings.model.sending import About, AnyDelivery, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.policy.fitting import fitting
from tidings.policy.redaction import without_addresses
from tidings.policy.retry import BUSY, about, is_fault, is_throttled
from tidings.policy.throttling import Refusal, Throttling
from tidings.ports.provider import Provider

_log = structlog.get_logger("tidings.provider")

STOPPED = Retry(BUSY, detail="it was not begun: the process is to stop")
NO_TURN = Retry(BUSY, detail="it was not begun: its turn at the provider did not come")
NOT_OURS = Retry(BUSY, detail="it was not begun: the queue did not confirm that it may be")
_TOO_LATE = Retry("expired", detail="it was over before the provider was asked", about=About.DELIVERY)


def is_unbegun(result: SendResult) -> bool:
    """Whether the provider was not called, so that the delivery goes back to the queue."""
    return any(result is unbegun for unbegun in (STOPPED, NO_TURN, NOT_OURS))


def is_too_late(result: SendResult) -> bool:
    """Whether the provider was not asked because the delivery had expired."""
    return isinstance(result, Retry) and (result.reason, result.detail) == (_TOO_LATE.reason, _TOO_LATE.detail)


async def answers_of(provider: Provider[Any], outbound: Sequence[AnyDelivery], now: int) -> Sequence[SendResult]:
    """One result per delivery, in order; `Uncertain` where the provider's answer is unknown.

    Deliveries that expired by `now` (milliseconds since the epoch), while they waited for their turn, are not sent.
    """
    asked = [one for one in outbound if one.expires_at is None or one.expires_at > now]
    if len(asked) == len(outbound):
        return await _asked(provider, outbound)
    answers = iter(await _asked(provider, asked) if asked else ())
    return [_TOO_LATE if one.expires_at is not None and one.expires_at <= now else next(answers) for one in outbound]


async def _asked(provider: Provider[Any], outbound: Sequence[AnyDelivery]) -> Sequence[SendResult]:
    try:
        async with asyncio.timeout(provider.timeout_s):
            results = await provider.send(outbound)
    except TimeoutError:
        return [Uncertain("timeout", f"no answer within {provider.timeout_s:g} s")] * len(outbound)
    except Exception as error:
        # A bug in the provider's file: nobody knows what the vendor took, and the batch must not be lost.
        _log.exception("a provider raised", provider=provider.name)
        return fitting([Uncertain("provider_error", repr(error))] * len(outbound))
    results = fitting(results)
    if len(results) != len(outbound):
        _log.error("a provider lost count", provider=provider.name, sent=len(outbound), answered=len(results))
        return [Uncertain("provider_error", "the provider answered for another number of deliveries")] * len(outbound)
    return results


def settled(
    results: Sequence[SendResult], outbound: Sequence[AnyDelivery], throttling: Throttling, now: int, *, failing: bool
) -> Sequence[SendResult]:
    """The results of a call that ended at `now` (milliseconds elapsed), with `about` set in every `Retry`.

    `failing`: the provider takes nothing from anybody. So its faults, and that it puts a delivery off, are about no
    delivery and no account.
    """
    refusals: dict[int, Refusal] = {}
    for place, result in enumerate(results):
        if isinstance(result, Retry) and is_throttled(result):
            refusals[place] = Refusal(outbound[place].to, id(result), about(result) is About.ACCOUNT)
    taken = sum(isinstance(result, Sent | Rejected) for result in results)
    everybodys = dict(zip(refusals, throttling.heard(list(refusals.values()), taken, now), strict=True))
    return [
        msgspec.structs.replace(result, about=_whose(result, everybodys.get(place), failing=failing))
        if isinstance(result, Retry)
        else result
        for place, result in enumerate(results)
    ]


def takes_nothing(results: Sequence[SendResult]) -> bool:
    """Whether the provider took nothing of a call: it failed, or put every delivery off."""
    return all(is_fault(result) or _is_put_off(result) for result in results)


def in_words(fault: SendResult) -> str:
    """The reason and detail of a failure for the log, without addresses."""
    return "" if isinstance(fault, Sent) else without_addresses(f"{fault.reason} {fault.detail}".strip())


def _whose(result: Retry, everybodys: bool | None, *, failing: bool) -> About:
    if everybodys is not None:
        return About.ACCOUNT if everybodys else About.DELIVERY
    return About.UNOFFERED if failing and (is_fault(result) or _is_put_off(result)) else about(result)


def _is_put_off(result: SendResult) -> bool:
    """Whether a mail server puts the delivery off, and does not say that this is about the recipient."""
    return isinstance(result, Retry) and result.patient and result.about is None
