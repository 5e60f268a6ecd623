"""The promises of ports/store.py about templates, on every adapter."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from support import unique
from support.stores import NOW
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.template import TemplateSummary, TemplateVersion, Variable, VersionSummary
from tidings.ports.store import Store

WELCOME = TemplateVersion(
    name="welcome",
    version=0,
    contents={
        "en": Content(
            email=EmailContent("Welcome, {{ name }}", text="Hi", html="<p>Hi</p>"),
            sms=SmsContent("Hi {{ name }}"),
            push=PushContent("Hi", "there", "https://example.org"),
            inapp=InappContent("Hi", "there"),
        ),
        "ar": Content(sms=SmsContent("مرحبا {{ name }}")),
        "ja": Content(sms=SmsContent("ようこそ")),
    },
    default_locale="en",
    variables={"name": Variable(description="first name", example="Ann"), "age": Variable(required=False, example=7)},
    description="sent after signing up",
    created_at=NOW,
    sources={"en": Content(email=EmailContent("Welcome", html="<mjml></mjml>"))},
)


async def test_a_version_is_read_back_whole_with_its_number(store: Store, tenant: str) -> None:
    stored = await store.templates.add_version(tenant, WELCOME)
    assert stored == replace(WELCOME, version=1)
    assert await store.templates.version(tenant, "welcome", 1) == stored


async def test_versions_count_up_and_stay_as_they_are(store: Store, tenant: str) -> None:
    for number in (1, 2, 3):
        stored = await store.templates.add_version(tenant, replace(WELCOME, description=f"try {number}", version=99))
        assert stored.version == number
    told = [VersionSummary("welcome", number, f"try {number}", NOW) for number in (3, 2, 1)]
    assert list(await store.templates.versions(tenant, "welcome", None, 10)) == told
    assert list(await store.templates.versions(tenant, "welcome", None, 2)) == told[:2]
    assert list(await store.templates.versions(tenant, "welcome", 3, 1)) == told[1:2]
    assert list(await store.templates.versions(tenant, "welcome", 1, 10)) == []
    second = await store.templates.version(tenant, "welcome", 2)
    assert second is not None
    assert second.description == "try 2"


async def test_concurrent_authors_get_different_numbers(store: Store, tenant: str) -> None:
    stored = await asyncio.gather(*(store.templates.add_version(tenant, WELCOME) for _ in range(8)))
    assert sorted(version.version for version in stored) == list(range(1, 9))


async def test_publish_and_roll_back(store: Store, tenant: str) -> None:
    for _ in range(3):
        await store.templates.add_version(tenant, WELCOME)
    assert await store.templates.published(tenant, "welcome") is None
    for number in (2, 3, 1):
        assert await store.templates.publish(tenant, "welcome", number)
        published = await store.templates.published(tenant, "welcome")
        assert published is not None
        assert published.version == number
        assert await store.templates.summary(tenant, "welcome") == TemplateSummary(
            "welcome", 3, number, WELCOME.description
        )


async def test_what_does_not_exist_cannot_be_published(store: Store, tenant: str) -> None:
    assert not await store.templates.publish(tenant, "welcome", 1)
    await store.templates.add_version(tenant, WELCOME)
    assert not await store.templates.publish(tenant, "welcome", 2)
    assert not await store.templates.publish(tenant, "welcome", 0)
    assert await store.templates.published(tenant, "welcome") is None


async def test_unknown_and_foreign_templates(store: Store, tenant: str) -> None:
    await store.templates.add_version(tenant, WELCOME)
    await store.templates.publish(tenant, "welcome", 1)
    for owner, name in ((tenant, "goodbye"), (unique("other"), "welcome")):
        assert await store.templates.version(owner, name, 1) is None
        assert await store.templates.published(owner, name) is None
        assert await store.templates.summary(owner, name) is None
        assert list(await store.templates.versions(owner, name, None, 10)) == []
        assert not await store.templates.publish(owner, name, 1)
    assert await store.templates.version(tenant, "welcome", 2) is None


async def test_templates_by_name_in_pages(store: Store, tenant: str) -> None:
    names = ["b", "a", "c-1", "c", "d_2"]
    for name in names:
        await store.templates.add_version(tenant, replace(WELCOME, name=name))
    await store.templates.add_version(tenant, replace(WELCOME, name="a", description="newer"))
    await store.templates.add_version(unique("other"), replace(WELCOME, name="foreign"))
    got: list[TemplateSummary] = []
    while page := await store.templates.list(tenant, got[-1].name if got else None, 2):
        assert len(page) <= 2
        got += page
    assert [summary.name for summary in got] == sorted(names)
    assert got[0] == TemplateSummary("a", 2, None, "newer")
