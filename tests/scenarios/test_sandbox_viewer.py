"""The sandbox's page in a real browser: arrivals appear without a reload, and hostile content is inert."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Literal

import aiosmtplib
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright, expect
from pyreqwest.client import Client

from support import needs
from support.parts import chromium_executable
from support.sandbox import Caller
from tidings.api.samples import FIRST, first_command
from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, delivery_id, from_text, to_text
from tidings.sandbox.arrivals import Arrival, Parts
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.server import Handle, serve

pytestmark = needs("chromium")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = (
    "<h1 id=greeting>Hello</h1><script>parent.document.title='owned'</script>"
    "<img src=x onerror=\"parent.document.title='owned'\"><a id=out href='https://example.com/'>out</a>"
    "<form action=/_sandbox/faults method=post><input name=a></form><meta http-equiv=refresh content='0;url=/healthz'>"
)


@pytest.fixture
async def page(sandbox: Handle) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_executable(), args=FLAGS)
        new_page = await browser.new_page(viewport={"width": 1400, "height": 900})
        await new_page.goto(sandbox.url)
        await expect(new_page.locator("#live")).to_have_text("live")
        yield new_page
        await browser.close()


async def test_the_four_channels_appear_by_themselves(page: Page, caller: Caller) -> None:
    await expect(page.get_by_role("heading", name="Nothing has arrived yet")).to_be_visible()
    await expect(page.locator("#hint")).to_be_hidden()

    await caller.email(
        "ana@example.com", "Your order is confirmed", "Plain thanks", "<h1 id=greeting>Thank you, Ana</h1>"
    )
    await caller.sms("+34600000001", "Your order is confirmed 🚚")
    await caller.push("token-1", "Order confirmed", "It arrives on Thursday")
    await caller.inapp("dlv_1", "ana", "Order confirmed", "In your inbox")

    mail = page.locator(".mail")
    await expect(mail.locator(".mail-subject")).to_have_text("Your order is confirmed")
    await expect(page.frame_locator(".mail-frame").locator("#greeting")).to_have_text("Thank you, Ana")
    await expect(mail.locator(".chip")).to_have_text("delivered")
    await mail.get_by_role("tab", name="Text").click()
    await expect(mail.locator(".mail-text")).to_have_text("Plain thanks")
    await expect(page.locator(".bubble")).to_have_text("Your order is confirmed 🚚")
    await expect(page.locator(".size")).to_have_text("1 segment · UCS-2")
    await expect(page.locator(".push h3")).to_have_text("Order confirmed")
    await expect(page.locator(".item h3")).to_have_text("Order confirmed")
    await expect(page.locator("#count-all")).to_have_text("4")
    await expect(page.get_by_role("heading", name="Nothing has arrived yet")).to_be_hidden()


async def test_mail_over_smtp_is_rendered(page: Page, sandbox: Handle) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "متجر <shop@example.com>", "ahmed@example.com", "تم شحن طلبك"
    mail.set_content("طلبك في الطريق.")
    mail.add_alternative("<p id=greeting>طلبك في الطريق.</p>", subtype="html")
    await aiosmtplib.send(mail, hostname="127.0.0.1", port=sandbox.smtp_port)
    subject = page.locator(".mail-subject")
    await expect(subject).to_have_text("تم شحن طلبك")
    assert await subject.evaluate("node => getComputedStyle(node).direction") == "rtl"
    await expect(page.frame_locator(".mail-frame").locator("#greeting")).to_have_text("طلبك في الطريق.")


async def test_a_name_written_from_right_to_left_does_not_turn_its_address_around(page: Page, sandbox: Handle) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"] = "متجر <shop@example.com>", "أحمد 7 <ahmed@example.com>"
    mail["Subject"] = "Hello"
    mail.set_content("Hello")
    await aiosmtplib.send(mail, hostname="127.0.0.1", port=sandbox.smtp_port)
    card = page.locator(".mail")
    for text in ("أحمد 7", "ahmed@example.com"):
        one = card.locator("bdi").filter(has_text=re.compile(f"^{text}$")).first
        await expect(one).to_be_visible()
        assert await one.evaluate("node => getComputedStyle(node).unicodeBidi") == "isolate"
    assert await card.locator(".mail-from").evaluate("node => node.tagName") == "BDI"


async def test_hostile_content_is_inert(page: Page, caller: Caller) -> None:
    answered: list[str] = []
    page.on("response", lambda response: answered.append(response.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    script = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    await caller.email("eve@example.com", script, script, EVIL, name=script)
    await caller.sms("+34600000001", script)
    await caller.push("token-1", script, script, link="javascript:alert(3)")
    await caller.inapp("dlv_1", script, script, script, link="javascript:alert(4)")

    frame = page.frame_locator(".mail-frame")
    await expect(frame.locator("#greeting")).to_have_text("Hello")
    for place in (".mail-subject", ".bubble", ".push h3", ".item h3"):
        await expect(page.locator(place)).to_have_text(script)
    assert await page.title() == "Tidings sandbox"
    assert await page.locator("main img, main script").count() == 0
    assert await page.locator("a[href^='javascript']").count() == 0
    assert await frame.locator("#out").evaluate("node => node.ownerDocument.defaultView.length") == 0
    assert [url for url in answered if url.endswith(("/x", "/healthz"))] == []


async def test_filters_by_channel_and_recipient(page: Page, caller: Caller) -> None:
    for to in ("ana@example.com", "bo@example.com"):
        await caller.email(to, f"For {to}", "text", "")
    await caller.sms("+34600000001", "hello")
    await expect(page.locator(".mail")).to_have_count(2)
    await page.get_by_label("Recipient").fill("BO@")
    await expect(page.locator(".mail:visible .mail-subject")).to_have_text(["For bo@example.com"])
    await expect(page.locator(".thread:visible")).to_have_count(0)
    await page.get_by_label("Recipient").fill("")
    await page.locator("#channels").get_by_role("button", name="SMS").click()
    await expect(page.locator(".mail:visible")).to_have_count(0)
    await expect(page.locator(".thread:visible")).to_have_count(1)


async def test_faults_are_switched_on_the_page(page: Page, caller: Caller, sandbox: Handle) -> None:
    await page.locator("#open-faults").click()
    throttled = page.locator("fieldset", has_text="Twilio").get_by_role("button", name="Throttled")
    await throttled.click()
    await expect(throttled).to_have_attribute("aria-pressed", "true")
    assert await caller.sms("+34600000001", "hello") == 429
    await expect(page.locator("#fault-list")).to_contain_text("Twilio: status (429, 1 hit)")
    await throttled.click()
    await expect(throttled).to_have_attribute("aria-pressed", "false")
    assert await caller.sms("+34600000001", "hello") == 201
    assert sandbox.sandbox.faults.all() == []


async def test_clearing_empties_the_page(page: Page, caller: Caller) -> None:
    await caller.sms("+34600000001", "first")
    await expect(page.locator(".bubble")).to_have_text("first")
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator(".bubble")).to_have_count(0)
    await caller.sms("+34600000001", "second")
    await expect(page.locator(".bubble")).to_have_text("second")


async def test_the_page_comes_back_after_a_restart(
    page: Page, sandbox: Handle, credentials: Credentials, http: Client
) -> None:
    await Caller(sandbox, credentials, http).sms("+34600000001", "first")
    await expect(page.locator(".bubble")).to_have_text("first")
    await sandbox.stop()
    await expect(page.locator("#live")).to_have_text("reconnecting")
    again = await serve("127.0.0.1", sandbox.port, 0, credentials)
    try:
        await Caller(again, credentials, http).sms("+34600000001", "second")
        await expect(page.locator(".bubble")).to_have_text("second", timeout=20_000)
        await expect(page.locator("#live")).to_have_text("live")
    finally:
        await again.stop()


async def test_each_channel_keeps_its_newest_and_pages_the_rest(page: Page, caller: Caller, sandbox: Handle) -> None:
    await caller.sms("+34600000001", "the first")
    await caller.sms("+34600000001", "the second")
    log = sandbox.sandbox.log
    log.add([mail(f"u{number}@example.com") for number in range(5_000)])
    await page.reload()
    await expect(page.locator("#count-email")).to_have_text("5,000")
    await expect(page.locator(".bubble")).to_have_text(["the second", "the first"])
    await expect(page.locator("#part-email")).to_have_text("60 of 5,000")
    await expect(page.locator("#part-sms")).to_have_text("")
    await expect(page.locator(".mail .mail-to").first).to_have_text("to u4999@example.com")
    await page.locator(".older[data-channel=email]").click()
    await expect(page.locator("#part-email")).to_have_text("120 of 5,000")
    await expect(page.locator(".mail .mail-to").last).to_have_text("to u4880@example.com")
    await expect(page.locator(".older[data-channel=sms]")).to_be_hidden()


async def test_a_search_finds_arrivals_that_the_page_does_not_show(page: Page, caller: Caller, sandbox: Handle) -> None:
    log = sandbox.sandbox.log
    log.add([mail(f"u{number}@example.com") for number in range(300)])
    await expect(page.locator("#part-email")).to_contain_text("of 300")
    await page.get_by_label("Recipient").fill("U3@")
    await expect(page.locator(".mail .mail-to")).to_have_text(["to u3@example.com"])
    await expect(page.locator("#part-email")).to_have_text("1 found")
    log.add([mail("u3@example.com"), mail("else@example.com")])
    await expect(page.locator("#part-email")).to_have_text("2 found")
    await page.get_by_label("Recipient").fill("nobody")
    await expect(page.locator("#no-hit")).to_have_text("Nothing is kept here for “nobody”.")
    await expect(page.locator(".none").first).to_have_text("None for this recipient")
    await page.get_by_label("Recipient").fill("")
    await expect(page.locator("#part-email")).to_have_text("60 of 302")
    await expect(page.locator("#no-hit")).to_be_hidden()


async def test_a_card_leads_to_its_timeline(page: Page, caller: Caller) -> None:
    delivery = delivery_id(from_text(NOTIFICATION_PREFIX, "ntf_01k00000000000000000000000"), 3)
    await caller.inapp(to_text(DELIVERY_PREFIX, delivery), "ana", "Order confirmed", "In your inbox")
    await page.locator(".item summary").click()
    await expect(page.locator(".item .facts")).to_contain_text("ntf_01k00000000000000000000000")
    copies = page.locator(".item [data-copies]")
    assert await copies.first.get_attribute("data-copies") == "tidings status ntf_01k00000000000000000000000"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_it_can_be_read_by_everybody(
    page: Page, caller: Caller, sandbox: Handle, scheme: Literal["light", "dark"], width: int
) -> None:
    """On a phone and a laptop, light and dark, with right-to-left text: axe finds nothing serious."""
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 800})
    await caller.email("ahmed@example.com", "تم شحن طلبك", "طلبك في الطريق.", "", name="أحمد")
    await caller.sms("+34600000001", "طلبك في الطريق.")
    await caller.push("token-1", "Order confirmed", "It arrives on Thursday")
    await caller.inapp("dlv_1", "أحمد", "Order confirmed", "In your inbox")
    sandbox.sandbox.log.add([mail(f"u{number}@example.com") for number in range(2_000)])
    await expect(page.locator("#count-all")).to_have_text("2,004")
    await expect(page.locator(".item h3")).to_have_text("Order confirmed")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        assert await page.locator("header.bar").evaluate("bar => bar.offsetHeight") < 70
        await expect(page.get_by_role("button", name="Failures")).to_be_in_viewport(ratio=1)
        await expect(page.locator("#theme")).to_be_in_viewport(ratio=1)
    found = await Axe().run(page)
    assert [
        (violation["id"], node["target"], node["any"][0]["message"] if node["any"] else "")
        for violation in found.response["violations"]
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ] == []


async def test_the_empty_page_shows_a_command_that_suits_this_installation(
    credentials: Credentials, tmp_path: Path, page: Page
) -> None:
    hint = first_command("http://127.0.0.1:9123", tmp_path / "demo.key")
    other = await serve("127.0.0.1", 0, 0, credentials, hint=hint)
    try:
        await page.goto(other.url)
        await expect(page.locator("#hint")).to_have_text(hint)
        assert "http://127.0.0.1:9123/v1/notifications" in hint
    finally:
        await other.stop()
    (tmp_path / "demo.key").write_text("tk_kept")
    script = f"curl() {{ printf '%s\\n' \"$@\"; }}; {hint}"
    for environment, key in (({}, "tk_kept"), ({"TIDINGS_API_KEY": "tk_mine"}, "tk_mine")):
        ran = await asyncio.create_subprocess_exec(
            "bash", "-euc", script, env={"PATH": "/usr/bin:/bin", **environment}, stdout=asyncio.subprocess.PIPE
        )
        words = (await ran.communicate())[0].decode()
        assert f"Authorization: Bearer {key}\n" in words
        assert json.loads(words.partition("-d\n")[2]) == FIRST


def mail(to: str) -> Arrival:
    return Arrival(0, 0, "email", "sendgrid", to, "shop@example.com", Parts(title="Hello", text="It works."))
