from __future__ import annotations

from pathlib import Path

import pytest

from tidings.config import Settings, api_access, load, without_settings
from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_need_be_set() -> None:
    settings = load(environment={})
    assert settings == Settings()
    assert settings.public_url == "http://127.0.0.1:8400"


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[http]\nport = 1\nhost = 'file'\nmax_body_bytes = 2048\n")
    settings = load(file, {"TIDINGS_HTTP__PORT": "2", "TIDINGS_HTTP__HOST": "environment"}, http={"port": 3})
    assert (settings.http.port, settings.http.host, settings.http.max_body_bytes) == (3, "environment", 2048)


def test_the_file_here_is_read_by_itself(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text("data_dir = 'elsewhere'")
    assert load(environment={}).data_dir == Path("elsewhere")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no settings file .*none.toml"):
        load(tmp_path / "none.toml", {})


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize("text", [b"port = ", b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(text)
    with pytest.raises(SettingsError, match=r"broken\.toml is not valid TOML"):
        load(file, {})


def test_a_bad_value_is_named_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[deliver]\nattempts = 0\n[sandbox]\nport = 70000")
    with pytest.raises(SettingsError) as caught:
        load(file, {"TIDINGS_HTTP__PORT": "many"}, telemetry={"log_format": "xml"})
    text = str(caught.value)
    assert f"deliver.attempts (from {file}): Input should be greater than or equal to 1" in text
    assert f"sandbox.port (from {file}): Input should be less than or equal to 65535" in text
    assert "http.port (from TIDINGS_HTTP__PORT): Input should be a valid integer" in text
    assert "telemetry.log_format (from the command line)" in text


def test_an_unknown_setting_gets_a_hint(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[http]\nprot = 1\n[htpp]\nport = 1\n")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert f"http.prot (from {file}): there is no such setting; did you mean port?" in str(caught.value)
    assert f"htpp (from {file}): there is no such setting; did you mean http?" in str(caught.value)


def test_a_value_is_no_section(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("http = 8400")
    with pytest.raises(SettingsError, match=r"TIDINGS_HTTP__PORT sets http\.port, but http is a value"):
        load(file, {"TIDINGS_HTTP__PORT": "1"})


def test_channels_from_file_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[channels]\nemail = ['one', 'two']\n[providers.one]\nhost = 'h'\n")
    settings = load(file, {"TIDINGS_CHANNELS__SMS": "three, four", "TIDINGS_PROVIDERS__ONE__PORT": "25"})
    assert settings.channels == {Channel.EMAIL: {"one": 1, "two": 0}, Channel.SMS: {"three": 1, "four": 0}}
    assert settings.providers == {"one": {"host": "h", "port": "25"}}


def test_an_unknown_channel_is_named() -> None:
    with pytest.raises(SettingsError, match=r"channels\.fax \(from TIDINGS_CHANNELS__FAX\)"):
        load(environment={"TIDINGS_CHANNELS__FAX": "one"})


def test_an_empty_section_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[providers.one]\n[http]\n")
    assert load(file, {}).providers == {"one": {}}


def test_the_clients_variables_are_no_settings() -> None:
    environment = {
        "TIDINGS_API_URL": "http://h:1",
        "TIDINGS_API_KEY": "tk_x",
        "TIDINGS_HTTP__PORT": "5",
        "PATH": "/bin",
    }
    assert load(environment=environment).http.port == 5
    assert api_access(environment) == ("http://h:1", "tk_x")
    assert api_access({"TIDINGS_API_URL": ""}) == (None, None)
    assert without_settings(environment) == {"PATH": "/bin", "MIMALLOC_ARENA_EAGER_COMMIT": "0"}
    assert without_settings({"MIMALLOC_ARENA_EAGER_COMMIT": "1"}) == {"MIMALLOC_ARENA_EAGER_COMMIT": "1"}


def test_settings_survive_the_way_to_a_child() -> None:
    settings = load(environment={"TIDINGS_CHANNELS__SMS": "three"}, http={"port": 9}, data_dir="/somewhere")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_urls_lead_to_this_machine() -> None:
    everywhere = load(environment={}, http={"host": "0.0.0.0", "port": 1}, sandbox={"host": "::1", "port": 2})
    assert everywhere.http.local_url == "http://127.0.0.1:1"
    assert everywhere.sandbox.local_url == "http://[::1]:2"
    assert load(environment={}, http={"public_url": "https://api.example/"}).public_url == "https://api.example"


def test_a_table_of_providers_gives_weights(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[channels]\nemail = { one = 80, two = 20, three = 0 }\n")
    settings = load(file, {"TIDINGS_CHANNELS__SMS": "four=1, five=3"})
    assert settings.channels[Channel.EMAIL] == {"one": 80, "two": 20, "three": 0}
    assert settings.channels[Channel.SMS] == {"four": 1, "five": 3}


@pytest.mark.parametrize("wrong", ["one=-1", "one=many", "one, one"])
def test_a_weight_that_is_none_is_told(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"channels.* \(from TIDINGS_CHANNELS__EMAIL\)"):
        load(None, {"TIDINGS_CHANNELS__EMAIL": wrong})
