from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest
from msgspec.structs import replace

from tidings.model.ids import new_id
from tidings.model.outcome import Outcome, Wait
from tidings.model.vocabulary import State
from tidings.model.wire import decode_outcomes
from tidings.pipeline.runtime.packs import LARGEST_PACK_BYTES, MOST_FACTS, of_what_may_have_been_taken, pack
from tidings.ports.queue import Item

PARTITIONS = 8


def facts(count: int, tenant: str = "shop") -> list[Outcome]:
    """Facts about as many users, in buckets as the hash spreads them."""
    return [Outcome(new_id(1_000, crc32(b"%d" % n) % 4096, n), tenant, 1_000, State.SENT) for n in range(count)]


def test_the_packs_of_one_large_tenant_spread_over_all_partitions() -> None:
    items = [item for fact in facts(400) for item in pack([fact])]
    used = Counter(crc32(item.key.encode()) % PARTITIONS for item in items)
    assert len(used) == PARTITIONS
    assert max(used.values()) < 3 * len(items) / PARTITIONS
    assert len({item.key for item in pack(facts(20 * MOST_FACTS))}) > PARTITIONS


def test_the_same_facts_have_the_same_key() -> None:
    assert pack(facts(10)) == pack(facts(10))


def test_tenants_do_not_share_a_key() -> None:
    (ours,), (theirs,) = pack(facts(3)), pack(facts(3, "other"))
    assert ours.key != theirs.key


def test_a_pack_holds_all_facts_in_their_order() -> None:
    wanted = facts(2 * MOST_FACTS + 1)
    items = pack(wanted)
    assert [len(decode_outcomes(item.body)) for item in items] == [MOST_FACTS, MOST_FACTS, 1]
    assert [fact for item in items for fact in decode_outcomes(item.body)] == wanted


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_fact_that_is_larger_than_a_pack_travels_alone(place: int) -> None:
    wanted = facts(3)
    wanted[place] = replace(wanted[place], detail="x" * (LARGEST_PACK_BYTES + 1))
    items = pack(wanted)
    assert [fact for item in items for fact in decode_outcomes(item.body)] == wanted
    large = [item for item in items if len(item.body) > LARGEST_PACK_BYTES]
    assert [decode_outcomes(item.body) for item in large] == [[wanted[place]]]


def test_what_a_lost_claim_still_reports_is_what_may_have_been_taken() -> None:
    states = list(State)
    wanted = [replace(fact, state=state) for fact, state in zip(facts(len(states)), states, strict=True)]
    waiting = replace(wanted[states.index(State.SENT)], wait=Wait(1, "requests.normal", "k", b""))
    items = [Item("requests.normal", "k", b"x"), *pack(wanted), *pack([waiting])]
    [item] = of_what_may_have_been_taken(items)
    kept = {State.SENT, State.DELIVERED, State.UNCERTAIN}
    assert decode_outcomes(item.body) == [fact for fact in wanted if fact.state in kept]
