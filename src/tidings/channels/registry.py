"""Finds and builds providers. Each concrete `Provider` in a file `channels/<channel>/<file>.py` is one kind.

A section `[providers.<name>]` of the settings is an account of one kind: the one in its setting `kind`, else the one
with the section's name. So there may be several accounts of one vendor, each with its own settings.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

from tidings import channels
from tidings.channels.settings import HttpProviderConfig, ProviderConfig, read
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel
from tidings.ports.provider import Provider

_NAME = re.compile(r"[a-z0-9_\-]{1,64}")
_SHARED_SETTINGS = frozenset(HttpProviderConfig.model_fields)


@cache
def providers() -> Mapping[str, type[Provider[Any]]]:
    """Every provider's class by its kind, sorted. Raises TypeError when two files use one kind."""
    by_kind: dict[str, type[Provider[Any]]] = {}
    for folder in pkgutil.iter_modules(channels.__path__, f"{channels.__name__}."):
        if not folder.ispkg:
            continue
        package = importlib.import_module(folder.name)
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for provider in _defined_in(importlib.import_module(file.name)):
                if (other := by_kind.get(provider.kind)) is not None:
                    raise TypeError(f"two providers are of kind {provider.kind!r}: {other}, {provider}")
                by_kind[provider.kind] = provider
    return MappingProxyType(dict(sorted(by_kind.items())))


def config_of(provider: type[Provider[Any]]) -> type[ProviderConfig]:
    """The pydantic model of the provider's settings, its `Config`. Raises TypeError when it has none."""
    config = getattr(provider, "Config", None)
    if not (inspect.isclass(config) and issubclass(config, ProviderConfig)):
        raise TypeError(f"{provider.__name__} needs a class attribute Config that derives from ProviderConfig")
    return config


def kind_of(name: str, settings: Mapping[str, Any]) -> type[Provider[Any]]:
    """The class of the provider `name` whose section is `settings`.

    Raises:
        SettingsError: there is no such kind, or the name cannot be part of a URL; the text names the kinds.
    """
    known = providers()
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"a provider cannot be called {name!r}: its name is part of the address that the vendor sends receipts to. "
            "Use lower-case letters, digits, dashes and underscores, at most 64."
        )
    kind = settings.get("kind")
    if kind is None:
        if name not in known:
            raise SettingsError(
                f"there is no provider {name!r}; there are {', '.join(known)}. If it is another account of one of "
                f'them, say of which: kind = "…" under [providers.{name}].'
            )
        return known[name]
    if not isinstance(kind, str) or kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=1)
        raise SettingsError(
            f"providers.{name}.kind is {kind!r}, and there is no such provider; there are {', '.join(known)}."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    return known[kind]


def names_an_account(settings: Mapping[str, Any]) -> bool:
    """Whether a section has a setting of an account, beyond those that all kinds share (kind, rate, timeouts)."""
    return not _SHARED_SETTINGS.issuperset(settings)


def build(name: str, settings: Mapping[str, Any], tools: Tools) -> Provider[Any]:
    """The provider `name`, ready to send.

    Raises:
        SettingsError: there is no such provider, or its settings cannot be used; each is named as
            `providers.<name>.<field>`.
    """
    provider: Any = kind_of(name, settings)
    config = read(name, config_of(provider), settings)
    own = dataclasses.replace(tools, name=name, receipts_url=f"{tools.receipts_url}/{name}")
    built: Provider[Any] = provider(config, own)
    return built


def serving(
    channel: Channel,
    names: Iterable[str],
    sections: Mapping[str, Mapping[str, Any]],
    stand_ins: Mapping[str, Mapping[str, Any]],
    tools: Tools,
) -> Iterator[Provider[Any]]:
    """The providers `names` of `channel`, in that order, each built from its section in `sections`.

    A section that names no account is completed from `stand_ins`: for each kind the settings of its stand-in.

    Raises:
        SettingsError: as `build`; or a provider serves another channel.
    """
    for name in names:
        section = sections.get(name, {})
        serves = kind_of(name, section)
        if serves.channel is not channel:
            raise SettingsError(f"channels.{channel.value}: {name} serves {serves.channel.value}")
        if not names_an_account(section):
            section = {**stand_ins.get(serves.kind, {}), **section}
        yield build(name, section, tools)


def _defined_in(module: ModuleType) -> list[type[Provider[Any]]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Provider)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
