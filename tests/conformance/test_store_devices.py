"""The promises of ports/store.py about owners of devices and incarnations of users, on every adapter."""

from __future__ import annotations

import asyncio
import random

import pytest
from msgspec.structs import replace

from support import unique
from support.stores import NOW, notification
from tidings.model.history import InboxItem
from tidings.model.ids import delivery_id
from tidings.model.outcome import Outcome
from tidings.model.user import Address, Preferences, Profile, Suppression
from tidings.model.vocabulary import Channel, State
from tidings.ports.store import Store

MUTED = Preferences(muted=True)


async def devices(store: Store, tenant: str, user_id: str) -> tuple[str, ...]:
    user = await store.users.get(tenant, user_id)
    assert user is not None
    return user.profile.devices


async def put(store: Store, tenant: str, /, **tokens: str) -> None:
    """Store users by id, each with its devices as names separated by spaces."""
    people = [(user_id, Profile(name=user_id, devices=tuple(text.split())), None) for user_id, text in tokens.items()]
    await store.users.upsert(tenant, people, NOW + 5)


def bounced(tenant: str, token: str, reason: str = "unregistered", at: int = NOW) -> Outcome:
    """The outcome of a vendor's answer that there is no such device."""
    told = notification(tenant)
    return Outcome(
        id=delivery_id(told.id, 16),
        tenant=tenant,
        at=at,
        state=State.FAILED,
        attempt=1,
        reason=reason,
        provider="vendor",
        address=Address(Channel.PUSH, token),
        notification=told,
        suppress=True,
    )


async def listed(store: Store, tenant: str, token: str) -> bool:
    address = Address(Channel.PUSH, token)
    return (tenant, address) in (await store.standings.look_up(addresses=[(tenant, address)])).suppressed


class TestOneOwner:
    async def test_a_device_belongs_to_the_user_who_registered_it_last(self, store: Store, tenant: str) -> None:
        await store.users.upsert(tenant, [("ann", Profile(devices=("one", "two"), name="Ann"), MUTED)], NOW)
        await put(store, tenant, bob="three one")
        ann = await store.users.get(tenant, "ann")
        assert ann is not None
        assert (ann.profile, ann.preferences) == (Profile(devices=("two",), name="Ann"), MUTED)
        assert ann.updated_at == NOW + 5
        assert await devices(store, tenant, "bob") == ("three", "one")
        await put(store, tenant, ann="one")
        assert await devices(store, tenant, "ann") == ("one",)
        assert await devices(store, tenant, "bob") == ("three",)

    async def test_within_a_batch_the_later_user_gets_the_device(self, store: Store, tenant: str) -> None:
        await put(store, tenant, zoe="one two", ann="two", bob="one")
        assert [await devices(store, tenant, who) for who in ("zoe", "ann", "bob")] == [(), ("two",), ("one",)]

    async def test_within_a_batch_a_user_who_comes_again_registers_anew(self, store: Store, tenant: str) -> None:
        people = [(who, Profile(devices=("one",)), None) for who in ("ann", "bob", "ann")]
        await store.users.upsert(tenant, people, NOW)
        assert await devices(store, tenant, "ann") == ("one",)
        assert await devices(store, tenant, "bob") == ()

    async def test_a_batch_can_move_a_device_between_its_users(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one two", bob="three")
        await put(store, tenant, ann="", bob="one")
        assert await devices(store, tenant, "ann") == ()
        assert await devices(store, tenant, "bob") == ("one",)
        await put(store, tenant, ann="two three")
        assert await devices(store, tenant, "ann") == ("two", "three")
        assert await devices(store, tenant, "bob") == ("one",)

    async def test_tenants_do_not_know_of_each_other(self, store: Store, tenant: str) -> None:
        other = unique("other")
        await put(store, tenant, ann="one")
        await put(store, other, ann="one", bob="two")
        await store.users.add_device(other, "bob", "one", 50, NOW)
        assert await devices(store, tenant, "ann") == ("one",)
        assert await devices(store, other, "ann") == ()

    async def test_a_deleted_user_owns_nothing(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one", bob="")
        await store.users.delete(tenant, "ann")
        assert await store.users.add_device(tenant, "bob", "one", 50, NOW) == Profile(name="bob", devices=("one",))
        await put(store, tenant, ann="")
        assert await devices(store, tenant, "ann") == ()

    async def test_a_token_longer_than_an_index_takes(self, store: Store, tenant: str) -> None:
        token = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=4096))
        await put(store, tenant, ann=token)
        await put(store, tenant, bob=token)
        assert await devices(store, tenant, "ann") == ()
        assert await store.users.remove_device(tenant, "bob", token, NOW)
        assert await devices(store, tenant, "bob") == ()

    async def test_users_who_exchange_their_devices_at_once(self, store: Store, tenant: str) -> None:
        """There is no deadlock, and each device has one owner afterwards."""
        chance = random.Random(7)
        users, tokens = [f"user-{n}" for n in range(6)], [f"token-{n}" for n in range(8)]
        await put(store, tenant, **dict.fromkeys(users, ""))

        async def one(turn: int) -> None:
            who, chosen = chance.sample(users, 3), chance.sample(tokens, 4)
            if turn % 3 == 0:
                await store.users.add_device(tenant, who[0], chosen[0], 50, NOW)
            elif turn % 3 == 1:
                await store.users.remove_device(tenant, who[0], chosen[0], NOW)
                await store.history.append([bounced(tenant, chosen[1]), bounced(tenant, chosen[2])])
            else:
                await put(store, tenant, **{who[0]: " ".join(chosen[:2]), who[1]: " ".join(chosen[2:]), who[2]: ""})

        for turn in range(0, 90, 15):
            await asyncio.gather(*(one(number) for number in range(turn, turn + 15)))
        owned = [token for who in users for token in await devices(store, tenant, who)]
        assert len(owned) == len(set(owned))
        await put(store, tenant, last=" ".join(tokens))
        assert [await devices(store, tenant, who) for who in users] == [()] * len(users), "every owner is known"


class TestOneDevice:
    async def test_is_added_as_the_newest(self, store: Store, tenant: str) -> None:
        assert await store.users.add_device(tenant, "ann", "one", 50, NOW) is None
        await put(store, tenant, ann="one two")
        added = await store.users.add_device(tenant, "ann", "three", 50, NOW + 1)
        assert added == Profile(name="ann", devices=("one", "two", "three"))
        again = await store.users.add_device(tenant, "ann", "one", 50, NOW + 2)
        assert again == Profile(name="ann", devices=("two", "three", "one"))
        user = await store.users.get(tenant, "ann")
        assert user is not None
        assert (user.profile, user.updated_at) == (again, NOW + 2)

    async def test_one_too_many_drops_the_oldest(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one two three", bob="")
        assert await store.users.add_device(tenant, "ann", "four", 3, NOW) == Profile(
            name="ann", devices=("two", "three", "four")
        )
        await store.users.add_device(tenant, "bob", "one", 3, NOW)
        assert await devices(store, tenant, "bob") == ("one",), "a dropped device has no owner"

    async def test_is_taken_from_its_previous_owner(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one two", bob="")
        await store.users.add_device(tenant, "bob", "one", 50, NOW)
        assert await devices(store, tenant, "ann") == ("two",)
        assert await devices(store, tenant, "bob") == ("one",)

    async def test_is_removed_from_its_user_alone(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one two", bob="three")
        assert await store.users.remove_device(tenant, "ann", "one", NOW)
        assert await store.users.remove_device(tenant, "ann", "one", NOW), "removing it twice succeeds"
        assert await store.users.remove_device(tenant, "ann", "three", NOW), "it does not belong to ann"
        assert not await store.users.remove_device(tenant, "eve", "one", NOW)
        assert await devices(store, tenant, "ann") == ("two",)
        assert await devices(store, tenant, "bob") == ("three",)


class TestDeadDevices:
    async def test_leave_the_profile(self, store: Store, tenant: str) -> None:
        await store.users.upsert(tenant, [("ann", Profile(name="Ann", devices=("one", "two")), MUTED)], NOW)
        await store.history.append([bounced(tenant, "one", at=NOW + 9)])
        ann = await store.users.get(tenant, "ann")
        assert ann is not None
        assert (ann.profile, ann.preferences) == (Profile(name="Ann", devices=("two",)), MUTED)
        assert ann.updated_at == NOW + 9
        assert await listed(store, tenant, "one")

    async def test_of_several_people_and_tenants_at_once(self, store: Store, tenant: str) -> None:
        other = unique("other")
        await put(store, tenant, ann="one two three", bob="four")
        await put(store, other, ann="one")
        await store.history.append([bounced(tenant, token) for token in ("one", "three", "four", "nobodys")])
        assert await devices(store, tenant, "ann") == ("two",)
        assert await devices(store, tenant, "bob") == ()
        assert await devices(store, other, "ann") == ("one",)

    async def test_an_address_of_another_channel_leaves_no_profile(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one")
        fact = bounced(tenant, "one")
        await store.users.upsert(tenant, [("bob", Profile(email="bob@example.com"), None)], NOW)
        await store.history.append([replace(fact, address=Address(Channel.EMAIL, "bob@example.com"))])
        bob = await store.users.get(tenant, "bob")
        assert bob is not None
        assert bob.profile.email == "bob@example.com"
        assert await devices(store, tenant, "ann") == ("one",)

    @pytest.mark.parametrize("reason", ["unregistered", "invalid_token"])
    async def test_can_be_registered_anew(self, store: Store, tenant: str, reason: str) -> None:
        await put(store, tenant, ann="one two", bob="")
        fact = bounced(tenant, "one", reason)
        await store.history.append([fact])
        await put(store, tenant, ann="two one")
        assert not await listed(store, tenant, "one")
        await store.history.append([fact])  # a recorder that repeats its batch
        assert await devices(store, tenant, "ann") == ("two", "one")
        assert not await listed(store, tenant, "one")
        await store.history.append([bounced(tenant, "one", reason)])
        await store.users.add_device(tenant, "bob", "one", 50, NOW)
        assert not await listed(store, tenant, "one")
        assert await devices(store, tenant, "bob") == ("one",)

    async def test_an_intentional_suppression_stays(self, store: Store, tenant: str) -> None:
        await store.users.suppress([Suppression(tenant, Address(Channel.PUSH, "one"), "by_hand", NOW)])
        await put(store, tenant, ann="one")
        await store.users.add_device(tenant, "ann", "one", 50, NOW)
        assert await listed(store, tenant, "one")


class TestIncarnations:
    async def of(self, store: Store, tenant: str, user_id: str) -> int:
        known = await store.users.known(tenant, [user_id])
        person = (await store.users.people([(tenant, user_id)]))[tenant, user_id]
        assert person.incarnation == known[user_id]
        return known[user_id]

    async def test_stay_as_long_as_the_user_does(self, store: Store, tenant: str) -> None:
        await put(store, tenant, ann="one")
        first = await self.of(store, tenant, "ann")
        await put(store, tenant, ann="", bob="one")
        await store.users.add_device(tenant, "ann", "two", 50, NOW)
        await store.users.set_preferences(tenant, "ann", MUTED, NOW)
        assert await self.of(store, tenant, "ann") == first
        assert await self.of(store, tenant, "bob") != 0

    async def test_the_next_user_of_the_id_has_another(self, store: Store, tenant: str) -> None:
        seen = set()
        for _ in range(5):
            await put(store, tenant, ann="")
            seen.add(await self.of(store, tenant, "ann"))
            await store.users.delete(tenant, "ann")
        assert len(seen) == 5
        assert dict(await store.users.known(tenant, ["ann", "bob"])) == {}
        assert dict(await store.users.known(tenant, [])) == {}

    async def test_the_next_user_of_the_id_starts_empty(self, store: Store, tenant: str) -> None:
        await store.users.upsert(tenant, [("ann", Profile(devices=("one",)), MUTED)], NOW)
        await store.users.delete(tenant, "ann")
        # A delivery that was under way when the user was deleted.
        await store.inbox.add(tenant, [InboxItem(notification(tenant).id, "ann", "Hello", "World", created_at=NOW)])
        await put(store, tenant, ann="")
        user = await store.users.get(tenant, "ann")
        assert user is not None
        assert (user.profile, user.preferences) == (Profile(name="ann"), Preferences())
        assert await store.inbox.unread(tenant, "ann") == 0
        await store.inbox.add(tenant, [InboxItem(notification(tenant).id, "ann", "Hello", "World", created_at=NOW)])
        await put(store, tenant, ann="two")
        assert await store.inbox.unread(tenant, "ann") == 1, "a changed user keeps the inbox"
