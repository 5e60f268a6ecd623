from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from tidings.channels.email.sendgrid import SendgridConfig
from tidings.channels.email.smtp_settings import SmtpConfig
from tidings.channels.inapp.inbox import InboxConfig
from tidings.channels.push.fcm import FcmConfig
from tidings.channels.settings import ProviderConfig, read
from tidings.channels.sms.twilio import TwilioConfig
from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel
from tidings.sandbox.credentials import FILE, Credentials, load_or_create, provider_settings
from tidings.sandbox.stand_ins import STAND_INS

CONFIGS: dict[str, type[ProviderConfig]] = {
    "sendgrid": SendgridConfig,
    "twilio": TwilioConfig,
    "fcm": FcmConfig,
    "smtp": SmtpConfig,
    "inbox": InboxConfig,
}


def test_they_stay_the_same_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = load_or_create(folder)
    assert load_or_create(folder) == first
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_processes_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    loaded: list[Credentials] = []
    threads = [threading.Thread(target=lambda: loaded.append(load_or_create(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({credentials.twilio_auth_token for credentials in loaded}) == 1
    assert len(loaded) == 4


def test_two_folders_differ(tmp_path: Path) -> None:
    first, second = load_or_create(tmp_path / "one"), load_or_create(tmp_path / "other")
    assert first.sendgrid_api_key != second.sendgrid_api_key
    assert first.fcm_private_key != second.fcm_private_key


def test_a_damaged_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"twilio_account_sid": 1}')
    with pytest.raises(SettingsError, match="delete it"):
        load_or_create(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot keep its credentials"):
        load_or_create(tmp_path / "file" / "folder")


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_providers_take_their_settings(credentials: Credentials, name: str) -> None:
    settings = provider_settings(credentials, "http://127.0.0.1:8401/", "127.0.0.1", 8425)
    assert isinstance(read(name, CONFIGS[name], settings[name]), CONFIGS[name])


def test_every_channel_has_a_provider(credentials: Credentials) -> None:
    settings = provider_settings(credentials, "http://127.0.0.1:8401", "127.0.0.1", 8425)
    assert set(STAND_INS) == set(Channel)
    assert {name for names in STAND_INS.values() for name in names} <= set(settings)
