"""What history knows of the attempts that a batch is about to make: which were made, and which another copy makes.

A delivery may be in the queue twice: its claim came back, or what put it was repeated after a crash. Decisions 0011 and
0031 say which copy is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.ids import instant_of
from tidings.pipeline.deliver.in_hand import Attempt
from tidings.pipeline.runtime.reader import Taken
from tidings.policy.transitions import returned
from tidings.ports.history import History

ASKED_AFTER_MS = 5_000
"""A delivery that is older than this may have been overtaken by a second copy, so history is asked about it."""


class Known(Struct, frozen=True):
    """What is known of a batch's attempts.

    `over`: those with a recorded result. `waited`: the furthest step to which a copy of the attempt has waited.
    `begun`: those that an earlier claim began.
    """

    over: set[Attempt]
    waited: Mapping[Attempt, int]
    begun: set[Attempt]


async def known(batch: Sequence[Taken[Delivery]], history: History, now: int) -> Known:
    """Ask `history` about those attempts of the batch that may have been made, or may have copies."""
    doubtful = {attempt_of(taken.value) for taken in batch if _is_doubtful(taken) or _is_late(taken.value, now)}
    # What came back was made, too.
    asked = [(id, number) for id, attempt in doubtful for number in (attempt, returned(attempt))]
    over = set(await history.attempted(asked)) if asked else set()
    over |= {(id, attempt) for id, attempt in doubtful if (id, returned(attempt)) in over}
    waited = await history.waited(list(doubtful)) if doubtful else {}
    # A receipt may come while another attempt waits. A replay's first one is made because a person wants it.
    again = {taken.value.id for taken in batch if taken.value.attempt > taken.value.first_attempt}
    arrived = await history.arrived(again) if again else set()
    over |= {attempt_of(taken.value) for taken in batch if taken.value.id in arrived}
    return Known(over, waited, {attempt_of(taken.value) for taken in batch if taken.begun})


def attempt_of(delivery: Delivery) -> Attempt:
    """The attempt that the delivery stands for."""
    return delivery.id, delivery.attempt


def _is_doubtful(taken: Taken[Delivery]) -> bool:
    # What waited may have been decided twice, by two claims over one batch: whichever comes second finds it made.
    return taken.begun or taken.repeated or taken.value.step > 0


def _is_late(delivery: Delivery, now: int) -> bool:
    """Whether a second copy of it may have been sent by now. A clock that is behind the id's tells nothing."""
    return not 0 <= now - instant_of(delivery.id) <= ASKED_AFTER_MS
