"""The settings: frozen, and checked at start. Only this module reads the environment and the settings file.

Sources, the later ones win: the defaults, the settings file (TOML), environment variables `TIDINGS_<SECTION>__<NAME>`,
the command line. A provider's own section is checked by the provider's `Config`.

`TIDINGS_API_URL` and `TIDINGS_API_KEY` are not settings: they give the client commands the API's URL and key.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from tidings.channels.registry import names_an_account
from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel
from tidings.sandbox.stand_ins import STAND_INS
from tidings.sections import (
    AuditSettings,
    BreakerSettings,
    CanarySettings,
    Database,
    Delivering,
    Fairness,
    Http,
    KafkaSection,
    KeepSettings,
    LimitSettings,
    Operations,
    Overload,
    QueueSettings,
    RetentionSettings,
    Sandbox,
    Section,
    StopSettings,
    Telemetry,
)

ENVIRONMENT_PREFIX = "TIDINGS_"
DEFAULT_FILE = "tidings.toml"
DEMO_KEY_FILE = "demo.key"
"""The file of the data folder in which `tidings up` keeps the demo tenant's key."""
API_URL = "TIDINGS_API_URL"
API_KEY = "TIDINGS_API_KEY"
_COMMAND_LINE = "the command line"


_COMMIT_EAGERLY = "MIMALLOC_ARENA_EAGER_COMMIT"
"""An option of pyreqwest's allocator. By default it takes 9 MB at once in every process, and never needs them here."""


class Settings(Section):
    """Everything that can be set."""

    data_dir: Path = Path("tidings-data")
    http: Http = Http()
    operations: Operations = Operations()
    database: Database = Database()
    queue: QueueSettings = QueueSettings()
    kafka: KafkaSection = KafkaSection()
    sandbox: Sandbox = Sandbox()
    deliver: Delivering = Delivering()
    limits: LimitSettings = LimitSettings()
    breaker: BreakerSettings = BreakerSettings()
    overload: Overload = Overload()
    fairness: Fairness = Fairness()
    audit: AuditSettings = AuditSettings()
    canary: CanarySettings = CanarySettings()
    keep: KeepSettings = KeepSettings()
    retention: RetentionSettings = RetentionSettings()
    stop: StopSettings = StopSettings()
    telemetry: Telemetry = Telemetry()
    channels: dict[Channel, dict[str, Annotated[int, Field(ge=0)]]] = Field(
        default={},
        description="the providers of each channel: a list, best first, or a table with their weights. An empty list "
        "turns a channel off. A channel that is not named here uses the sandbox if that is on; if not, requests for it "
        "are refused",
    )
    providers: dict[str, dict[str, Any]] = Field(
        default={}, description="the settings of each provider, by its name; `kind` is the provider's kind"
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        """Each channel's providers as names with weights; see `weighted`."""
        if not isinstance(value, Mapping):
            return value
        return {channel: weighted(names) for channel, names in value.items()}

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox runs: as `sandbox.enabled` says; if that is not set, unless a real provider is named."""
        if self.sandbox.enabled is not None:
            return self.sandbox.enabled
        in_use = {name for names in self.channels.values() for name in names}
        return not any(names_an_account(self.providers.get(name, {})) for name in in_use)

    def provider_names(self, channel: Channel) -> Sequence[str] | None:
        """The names of the channel's providers, in order of preference; none if it is turned off.

        None: the channel is not configured, and requests for it are refused. The inbox needs no vendor, so it is always
        configured unless it is turned off.
        """
        named = self.channels.get(channel)
        if named is not None:
            return tuple(named)
        if self.uses_sandbox or channel is Channel.INAPP:
            return STAND_INS[channel]
        return None

    @property
    def unserved(self) -> frozenset[Channel]:
        """The channels that are not configured."""
        return frozenset(channel for channel in Channel if self.provider_names(channel) is None)

    @property
    def public_url(self) -> str:
        """The base URL at which vendors and browsers reach the API, without a trailing slash."""
        return (self.http.public_url or self.http.local_url).rstrip("/")


def weighted(names: Any) -> Any:
    """The names of providers with their weights. Without weights, the first name has all the weight.

    `names` is a list of names, or text from the environment: `a, b` or `a=80, b=20`. Anything else is returned as it
    is, for the validation to judge.

    Raises:
        ValueError: a name is repeated.
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    if not isinstance(names, (list, tuple)):
        return names
    weights: dict[str, Any] = {}
    for index, entry in enumerate(names):
        name, separator, weight = str(entry).partition("=")
        if name.strip() in weights:
            raise ValueError(f"{name.strip()} is named twice")
        weights[name.strip()] = weight.strip() if separator else int(index == 0)
    return weights


def load(file: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings from `file` (default: `tidings.toml` here, if it exists), the environment, and `overrides`.

    `overrides` are nested like the file (`http={"port": 0}`).

    Raises:
        SettingsError: the file is missing or not TOML, or a value is invalid. The text names the setting, the source of
            its value, and the fault.
    """
    tree: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    path = file or Path(DEFAULT_FILE)
    for section, value in _from_file(path, required=file is not None).items():
        _merge(tree, origins, (section,), value, str(path))
    for variable, value in sorted((os.environ if environment is None else environment).items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in {API_URL, API_KEY}:
            parts = tuple(variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            _merge(tree, origins, parts, value, variable)
    for section, value in overrides.items():
        _merge(tree, origins, (section,), value, _COMMAND_LINE)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        lines = [_sentence(problem["loc"], problem["type"], problem["msg"], origins) for problem in error.errors()]
        raise SettingsError("these settings cannot be used:\n" + "\n".join(lines)) from error


def api_access(environment: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """The API's URL and key for client commands, from the environment; None for the one that is not set."""
    variables = os.environ if environment is None else environment
    return variables.get(API_URL) or None, variables.get(API_KEY) or None


def without_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings, for a child process that gets all settings from its parent."""
    variables = os.environ if environment is None else environment
    kept = {name: value for name, value in variables.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {_COMMIT_EAGERLY: "0"} | kept


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise SettingsError(
            f"there is no settings file {path}; `tidings settings --example --write {path}` makes one"
        ) from error
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _merge(
    tree: dict[str, Any], origins: dict[tuple[str, ...], str], path: tuple[str, ...], value: Any, origin: str
) -> None:
    """Put `value` into the tree at `path`, and remember that it came from `origin`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _merge(tree, origins, (*path, str(name)), inner, origin)
        if value:
            return
    for depth, part in enumerate(path[:-1], 1):
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SettingsError(
                f"{origin} sets {'.'.join(path)}, but {'.'.join(path[:depth])} is a value, not a section"
            )
        tree = inner
    if not isinstance(value, Mapping):
        tree[path[-1]] = value
        origins[path] = origin
    else:
        tree.setdefault(path[-1], {})


def _sentence(location: Sequence[int | str], kind: str, problem: str, origins: Mapping[tuple[str, ...], str]) -> str:
    """One of pydantic's errors as a line: the setting, the source of its value, and the fault."""
    parts = tuple(str(part) for part in location if part != "[key]")
    origin = next((origins[parts[:end]] for end in range(len(parts), 0, -1) if parts[:end] in origins), None)
    if origin is None:
        origin = next((source for path, source in origins.items() if path[: len(parts)] == parts), None)
    if kind == "extra_forbidden":
        problem = "there is no such setting"
        near = difflib.get_close_matches(parts[-1], _names_in(parts[:-1]), n=1)
        if near:
            problem += f"; did you mean {near[0]}?"
    return f"  {'.'.join(parts)}{f' (from {origin})' if origin else ''}: {problem}"


def _names_in(section: Sequence[str]) -> list[str]:
    """The names of the settings in a section."""
    model: Any = Settings
    for part in section:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
