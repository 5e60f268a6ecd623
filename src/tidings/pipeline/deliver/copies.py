"""What the history knows about a batch's attempts: which are over, and which have a copy that waited.

"Copies and doubt" in docs/how-it-works/one-delivery.md says why a delivery may be in a queue twice, and which copy is
sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.ids import instant_of
from tidings.pipeline.deliver.in_hand import Attempt
from tidings.pipeline.runtime.reader import Claimed
from tidings.policy.transitions import came_back
from tidings.ports.history import History

ASKED_AFTER_MS = 5_000
"""Age of a delivery from which the history is asked about it: a copy may have been sent before it by then."""


class Known(Struct, frozen=True):
    """What is known about a batch's attempts.

    `over`: attempts with a recorded result, or whose delivery arrived. `waited`: the highest step of a recorded wait,
    by attempt. `begun`: attempts that an earlier claim began.
    """

    over: set[Attempt]
    waited: Mapping[Attempt, int]
    begun: set[Attempt]


async def known(batch: Sequence[Claimed[Delivery]], history: History, now: int) -> Known:
    """Ask `history` about the attempts of the batch that may have been made, or may have copies."""
    doubtful = {attempt_of(claimed.value) for claimed in batch if _is_doubtful(claimed) or _is_late(claimed.value, now)}
    # The fact that a mail came back has an attempt number of its own; that attempt was made, too.
    asked = [(id, number) for id, attempt in doubtful for number in (attempt, came_back(attempt))]
    over = set(await history.attempted(asked)) if asked else set()
    over |= {(id, attempt) for id, attempt in doubtful if (id, came_back(attempt)) in over}
    waited = await history.waited(list(doubtful)) if doubtful else {}
    # A receipt may have come while the next attempt waited. The first attempt of a replay is made even so: a person
    # ordered it.
    again = {claimed.value.id for claimed in batch if claimed.value.attempt > claimed.value.first_attempt}
    arrived = await history.arrived(again) if again else set()
    over |= {attempt_of(claimed.value) for claimed in batch if claimed.value.id in arrived}
    return Known(over, waited, {attempt_of(claimed.value) for claimed in batch if claimed.begun})


def attempt_of(delivery: Delivery) -> Attempt:
    """The attempt that the delivery is on."""
    return delivery.id, delivery.attempt


def _is_doubtful(claimed: Claimed[Delivery]) -> bool:
    # Two claims over one batch may both have made a delivery wait. The copy that comes second finds it made.
    return claimed.begun or claimed.repeated or claimed.value.step > 0


def _is_late(delivery: Delivery, now: int) -> bool:
    """Whether a copy of it may have been sent by now. True too if the id lies in the future: the clocks disagree."""
    return not 0 <= now - instant_of(delivery.id) <= ASKED_AFTER_MS
