"""No log contains a secret, an address or a text, and other users can read nothing that `tidings up` writes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from support import eventually
from support.up import Up

PLANTED = {
    "address": "planted.person@example.com",
    "uncertain address": "timeout+planted@example.com",
    "broken address": "garbage+planted@example.com",
    "phone": "+4915123456789",
    "device": "planted-device-token-4711",
    "text": "Planted one-time password 839201",
    "wrong key": "tk_planted0123456789abcdefplanted",
    "data": "planted-order-number",
}


@pytest.fixture(params=["json", "text"])
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(url: str, key: str, body: object, method: str = "POST") -> int:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method)
    request.add_header("Authorization", f"Bearer {key}")
    try:
        with urlopen(request) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def send_planted(api: str, key: str) -> None:
    """Send the planted values in requests of every kind: accepted ones, refused ones, and ones that fail later."""
    text = PLANTED["text"]
    content = {"email": {"subject": text, "text": text}, "sms": {"text": text}, "push": {"title": text, "body": text}}
    profile = {"email": PLANTED["address"], "phone": PLANTED["phone"], "devices": [PLANTED["device"]], "name": text}
    assert ask(f"{api}/v1/users/planted", key, profile, "PUT") in {200, 201}
    assert ask(f"{api}/v1/notifications", key, {"to": {"user_id": "planted"}, "content": content}) == 202
    for name in ("uncertain address", "broken address"):
        to = {"email": PLANTED[name]}
        assert ask(f"{api}/v1/notifications", key, {"to": to, "content": {"email": content["email"]}}) == 202
    bad = {"to": {"email": PLANTED["address"]}, "content": {"email": text}, "data": {"x": PLANTED["data"]}}
    assert ask(f"{api}/v1/notifications", key, bad) == 422
    assert ask(f"{api}/v1/users/planted", key, {"email": [text], "phone": {"a": PLANTED["phone"]}}, "PUT") == 422
    assert ask(f"{api}/v1/notifications", PLANTED["wrong key"], bad) == 401
    assert ask(f"{api}/v1/suppressions", key, {"channel": "email", "address": PLANTED["address"]}) < 500
    assert ask(f"{api}/v1/receipts/sendgrid", key, [{"email": PLANTED["address"], "event": text}]) in {400, 403, 422}


async def test_no_log_of_any_process_contains_a_planted_value(
    up_folder: Path, ups: list[Up], style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = up_folder / "tidings.toml"
    settings.write_text(f'[telemetry]\nlog_level = "debug"\nlog_format = "{style}"\n')
    monkeypatch.chdir(up_folder)
    previous = os.umask(0)
    try:
        up = Up(up_folder, "--port", "0", "--settings", str(settings))
    finally:
        os.umask(previous)
    ups.append(up)
    await up.ready()
    (key,) = re.findall(r"API key +(\S+)", up.text)
    api = str(up.running()["api_url"])
    send_planted(api, key)
    await up.rested(await up.paste())

    # Kill the database, so that every part logs errors.
    database = [pid for pid in up.family if b"postgres" in _command(pid) and b"-D" in _command(pid)]
    for pid in database:
        os.kill(pid, signal.SIGKILL)
    assert database
    for _ in range(3):
        ask(f"{api}/v1/users/planted", key, {"email": PLANTED["address"]}, "PUT")
        ask(f"{api}/v1/suppressions/email/{quote(PLANTED['address'])}", key, {}, "DELETE")
        ask(f"{api}/v1/suppressions/sms/{quote(PLANTED['phone'])}", key, {}, "DELETE")

    def back() -> bool:
        return ask(f"{api}/v1/users/planted", key, {"email": PLANTED["address"]}, "PUT") in {200, 201}

    await eventually(lambda: asyncio.to_thread(back), 60)
    up.process.send_signal(signal.SIGINT)
    assert await up.ended() == 0

    data = up_folder / "data"
    logs = [*sorted((data / "logs").rglob("*")), *sorted(data.rglob("*.log"))]
    said = {log: log.read_text(errors="replace") for log in logs if log.is_file()}
    assert len(said) >= 3
    assert sum(len(text) for text in said.values()) > 1_000
    secrets = {**PLANTED, "key": key, "database password": _password(up_folder)}
    found = [
        f"{name} in {log.name}" for log, text in said.items() for name, secret in secrets.items() if secret in text
    ]
    assert found == []
    assert _open_to_others(data) == []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _password(folder: Path) -> str:
    """The password of the bundled server; a text that occurs nowhere if it has none."""
    for file in (folder / "data").rglob("*password*"):
        if file.is_file():
            return file.read_text().strip()
    return "there is no password"


def _open_to_others(folder: Path) -> list[str]:
    """The paths that another user could read, write or enter.

    As root, PostgreSQL runs as a user of its own, which may pass through the data folder.
    """
    found = []
    pending = [folder]
    while pending:
        path = pending.pop()
        mode = path.lstat().st_mode
        passable = 0o010 if path == folder and os.geteuid() == 0 else 0
        if not path.is_symlink() and mode & 0o077 & ~passable and not stat.S_ISSOCK(mode):
            found.append(f"{stat.filemode(mode)} {path.relative_to(folder)}")
        elif stat.S_ISDIR(mode) and path.stat().st_uid == os.geteuid():
            pending += path.iterdir()
    return found
