"""Which dead letters can be sent again, to whom, and to which address, as of now."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tidings.model.letters import DeadLetter
from tidings.model.user import Address
from tidings.policy.letters import Obstacle, obstacle, present_address_of
from tidings.policy.presence import is_meant
from tidings.ports.standings import Standings, suppressible
from tidings.ports.users import NO_USER, Person


class Judged(Struct, frozen=True, gc=False):
    """A dead letter with its recipient and address as of now, and why it cannot be replayed (None: it can)."""

    letter: DeadLetter
    person: Person
    obstacle: Obstacle | None
    address: Address


async def judge(letters: Sequence[DeadLetter], standings: Standings, now: int) -> list[Judged]:
    """Each letter with its recipient, its address and its obstacle, as of `now`."""
    if not letters:
        return []
    with_notifications = [(letter, letter.record.notification) for letter in letters]
    standing = await standings.look_up(
        {(about.tenant, about.to.user_id) for _, about in with_notifications if about.to.user_id is not None},
        notifications={about.id for _, about in with_notifications},
    )
    asked = [standing.people.get((about.tenant, about.to.user_id or ""), NO_USER) for _, about in with_notifications]
    presents = [
        present_address_of(letter, person.profile)
        for (letter, _), person in zip(with_notifications, asked, strict=True)
    ]
    addresses = ((about.tenant, address) for (_, about), address in zip(with_notifications, presents, strict=True))
    suppressed = (await standings.look_up(addresses=suppressible(addresses))).suppressed
    judged: list[Judged] = []
    for (letter, about), person, address in zip(with_notifications, asked, presents, strict=True):
        why = obstacle(
            letter,
            known=about.to.user_id is None or person.profile is not None,
            meant=is_meant(about.incarnation, person.incarnation),
            address=address,
            suppressed=suppressed,
            cancelled=standing.cancelled,
            now=now,
        )
        judged.append(Judged(letter, person, why, address))
    return judged
