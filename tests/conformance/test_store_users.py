"""The promises of ports/store.py about users, preferences and the suppression list, on every adapter."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from support import unique
from support.stores import NOW, notification
from tidings.model.history import InboxItem
from tidings.model.ids import delivery_id
from tidings.model.outcome import Outcome
from tidings.model.user import Address, Preferences, Profile, QuietHours, Suppression, User
from tidings.model.vocabulary import Channel, State
from tidings.policy.addresses import identity
from tidings.ports.standings import Standing
from tidings.ports.store import Store
from tidings.ports.users import Person

ANN = Profile(
    email="ann@example.org",
    phone="+4915112345678",
    devices=("token-1", "token-2"),
    locale="pt-BR",
    timezone="America/Sao_Paulo",
    name="Ann Ångström 安",
    attributes={"plan": "gold", "logins": 7, "tags": ["a", None], "nested": {"x": 1.5}},
)
QUIET = Preferences({"news": (Channel.SMS, Channel.PUSH), "*": ()}, QuietHours(22 * 60, 7 * 60), muted=True)

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)


async def test_a_user_is_read_back_whole(store: Store, tenant: str) -> None:
    await store.users.upsert(tenant, [("ann", ANN, QUIET)], NOW)
    assert await store.users.get(tenant, "ann") == User("ann", ANN, QUIET, NOW)


async def test_upsert_replaces_the_profile_and_keeps_preferences_that_are_not_given(store: Store, tenant: str) -> None:
    await store.users.upsert(tenant, [("ann", ANN, QUIET)], NOW)
    await store.users.upsert(tenant, [("ann", Profile(email="new@example.org"), None)], NOW + 1)
    assert await store.users.get(tenant, "ann") == User("ann", Profile(email="new@example.org"), QUIET, NOW + 1)
    await store.users.upsert(tenant, [("ann", ANN, Preferences())], NOW + 2)
    assert await store.users.get(tenant, "ann") == User("ann", ANN, Preferences(), NOW + 2)


async def test_many_users_at_once(store: Store, tenant: str) -> None:
    many = [(f"user-{number}", Profile(email=f"{number}@example.org"), None) for number in range(300)]
    await store.users.upsert(tenant, many, NOW)
    people = await store.users.people([(tenant, user_id) for user_id, _, _ in many])
    assert {user_id: people[tenant, user_id].profile for user_id, _, _ in many} == {
        user_id: profile for user_id, profile, _ in many
    }


async def test_people_of_several_tenants_without_the_unknown(store: Store, tenant: str) -> None:
    other = unique("other")
    await store.users.upsert(tenant, [("ann", ANN, QUIET), ("bob", Profile(), None)], NOW)
    await store.users.upsert(other, [("ann", Profile(name="another"), None)], NOW)
    people = await store.users.people([(tenant, "ann"), (tenant, "bob"), (other, "ann"), (other, "bob")])
    assert {key: structs.replace(person, incarnation=None) for key, person in people.items()} == {
        (tenant, "ann"): Person(ANN, QUIET),
        (tenant, "bob"): Person(Profile(), Preferences()),
        (other, "ann"): Person(Profile(name="another"), Preferences()),
    }
    assert dict(await store.users.people([])) == {}


async def test_preferences_are_replaced(store: Store, tenant: str) -> None:
    assert not await store.users.set_preferences(tenant, "ann", QUIET, NOW)
    await store.users.upsert(tenant, [("ann", ANN, None)], NOW)
    assert await store.users.set_preferences(tenant, "ann", QUIET, NOW + 5)
    assert not await store.users.set_preferences(unique("other"), "ann", Preferences(), NOW + 6)
    assert await store.users.get(tenant, "ann") == User("ann", ANN, QUIET, NOW + 5)


async def test_deleting_a_user_deletes_the_inbox(store: Store, tenant: str) -> None:
    item = InboxItem(notification(tenant).id, "ann", "Hello", "World", created_at=NOW)
    await store.users.upsert(tenant, [("ann", ANN, None), ("bob", ANN, None)], NOW)
    await store.inbox.add(tenant, [item])
    assert not await store.users.delete(unique("other"), "ann")
    assert await store.users.get(tenant, "ann") is not None
    assert await store.users.delete(tenant, "ann")
    assert not await store.users.delete(tenant, "ann")
    assert await store.users.get(tenant, "ann") is None
    assert await store.inbox.unread(tenant, "ann") == 0
    assert await store.users.get(tenant, "bob") is not None


async def test_one_look_up_answers_all_that_may_forbid_sending(store: Store, tenant: str) -> None:
    other = unique("other")
    email, phone = Address(Channel.EMAIL, "Ann@example.org"), Address(Channel.SMS, "+4915112345678")
    cancelled, going = notification(tenant), notification(tenant)
    await store.users.upsert(tenant, [("ann", ANN, QUIET), ("bob", Profile(), None)], NOW)
    await store.users.suppress([Suppression(tenant, email, "bounced", NOW), Suppression(other, phone, "stop", NOW)])
    await store.cancellations.cancel(tenant, cancelled.id, NOW)
    standing = await store.standings.look_up(
        [(tenant, "ann"), (tenant, "nobody"), (other, "ann")],
        [(tenant, email), (tenant, Address(Channel.EMAIL, "ann@EXAMPLE.org")), (tenant, phone), (other, email)],
        [cancelled.id, going.id],
    )
    assert standing.people == await store.users.people([(tenant, "ann")])
    assert standing.suppressed == {
        (tenant, email): "bounced",
        (tenant, Address(Channel.EMAIL, "ann@EXAMPLE.org")): "bounced",
    }
    assert standing.cancelled == {cancelled.id}
    assert await store.standings.look_up() == Standing()


async def test_an_address_keeps_its_first_reason_until_it_is_taken_off(store: Store, tenant: str) -> None:
    address = Address(Channel.EMAIL, "gone@example.org")
    await store.users.suppress(
        [Suppression(tenant, address, "bounced", NOW), Suppression(tenant, address, "spam", NOW)]
    )
    await store.users.suppress([Suppression(tenant, address, "complained", NOW + 1)])
    assert (await store.standings.look_up(addresses=[(tenant, address)])).suppressed == {(tenant, address): "bounced"}
    assert await store.users.suppressions(tenant, None, 10) == [Suppression(tenant, address, "bounced", NOW)]
    assert not await store.users.unsuppress(unique("other"), address)
    assert await store.users.unsuppress(tenant, address)
    assert not await store.users.unsuppress(tenant, address)
    assert dict((await store.standings.look_up(addresses=[(tenant, address)])).suppressed) == {}
    assert dict((await store.standings.look_up(addresses=[])).suppressed) == {}


async def test_the_list_goes_by_channel_and_value_in_pages(store: Store, tenant: str) -> None:
    listed = [
        Suppression(tenant, Address(channel, value), "bounced", NOW)
        for channel in (Channel.SMS, Channel.EMAIL, Channel.PUSH)
        for value in ("c", "a", "B", "b-1")
    ]
    await store.users.suppress(listed)
    await store.users.suppress([Suppression(unique("other"), Address(Channel.SMS, "a"), "foreign", NOW)])
    known = [structs.replace(entry, address=identity(entry.address)) for entry in listed]
    wanted = sorted(known, key=lambda entry: (entry.address.channel.value, entry.address.value))
    got: list[Suppression] = []
    while page := await store.users.suppressions(tenant, got[-1].address if got else None, 5):
        assert len(page) <= 5
        got += page
    assert got == wanted


SPELLINGS = [
    (Channel.EMAIL, ["Ada@Example.com", "ada@example.com", "ADA@EXAMPLE.COM"]),
    (Channel.EMAIL, ["a\u0301da@bücher.example", "\u00e1da@bücher.example", "Áda@xn--bcher-kva.example"]),
    (
        Channel.EMAIL,
        [
            "\u03bd\u03af\u03ba\u03bf\u03c2@example.gr",
            "\u039d\u03af\u03ba\u03bf\u03a3@example.gr",
            "\u03bd\u03af\u03ba\u03bf\u03c3@example.gr",
        ],
    ),
    (Channel.SMS, ["+4930901820", "+49 (0)30 901820", "+49-30-901820"]),
]


@pytest.mark.parametrize(("channel", "spellings"), SPELLINGS)
async def test_the_list_sees_one_address_in_all_of_its_spellings(
    store: Store, tenant: str, channel: Channel, spellings: list[str]
) -> None:
    all_of_them = [(tenant, Address(channel, value)) for value in spellings]
    for _, spelled in all_of_them:
        await store.users.suppress([Suppression(tenant, spelled, "bounced", NOW)])
        suppressed = (await store.standings.look_up(addresses=all_of_them)).suppressed
        assert suppressed == dict.fromkeys(all_of_them, "bounced")
        assert len(await store.users.suppressions(tenant, None, 10)) == 1
        for _, other in all_of_them:
            assert await store.users.unsuppress(tenant, other) is (other == all_of_them[0][1])


async def test_a_fact_suppresses_all_spellings_of_its_address(store: Store, tenant: str) -> None:
    sent = notification(tenant)
    gone = Address(Channel.EMAIL, "ADA@example.com")
    delivery = delivery_id(sent.id, 1)
    planned = Outcome(sent.id, tenant, NOW, State.PENDING, notification=sent)
    bounced = Outcome(delivery, tenant, NOW, State.FAILED, attempt=1, reason="bounced", address=gone, suppress=True)
    await store.history.append([planned, bounced])
    asked = (tenant, Address(Channel.EMAIL, "Ada@example.com"))
    assert (await store.standings.look_up(addresses=[asked])).suppressed == {asked: "bounced"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user_id=text.filter(bool),
    profile=st.builds(
        Profile,
        email=st.none() | text,
        devices=st.lists(text, max_size=3, unique=True).map(tuple),
        name=st.none() | text,
        attributes=st.dictionaries(text, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text, max_size=3),
    ),
    preferences=st.builds(
        Preferences,
        opted_out=st.dictionaries(text, st.lists(st.sampled_from(list(Channel)), unique=True).map(tuple), max_size=3),
        quiet_hours=st.none() | st.builds(QuietHours, st.integers(0, 1439), st.integers(0, 1439)),
        muted=st.booleans(),
    ),
)
async def test_any_user_is_read_back_whole(
    store: Store, tenant: str, user_id: str, profile: Profile, preferences: Preferences
) -> None:
    await store.users.upsert(tenant, [(user_id, profile, preferences)], NOW)
    assert await store.users.get(tenant, user_id) == User(user_id, profile, preferences, NOW)
    person = (await store.users.people([(tenant, user_id)]))[tenant, user_id]
    assert person == Person(profile, preferences, person.incarnation)
