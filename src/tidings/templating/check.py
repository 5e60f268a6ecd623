"""Checks whether a draft can become a version: its names, locales, texts and variables, and how it renders.

Every refusal is an Invalid with the JSON path of the fault.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from msgspec import structs

from tidings.model.errors import Invalid, TemplateError
from tidings.model.notification import Content
from tidings.model.template import TemplateVersion
from tidings.policy.locale import canonical, direction
from tidings.templating.compile import IMPLICIT, AlwaysFails, Compiled, compile_version
from tidings.templating.guard import METHOD_NAMES
from tidings.templating.mail import compile_html, plain_text

MAX_LOCALES = 100
MAX_VARIABLES = 200
MAX_SOURCE = 256 * 1024
"""How many characters one text may have as its author wrote it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED = IMPLICIT | {"range", "loop", "true", "false", "none", "and", "or", "not", "in", "is", "if", "else"}
_MAY_BE_EMPTY = frozenset({"email.text", "email.html", "push.link", "inapp.link"})
_UNWANTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def is_name(text: str) -> bool:
    """Whether a template may have this name."""
    return _NAME.fullmatch(text) is not None


def checked(draft: TemplateVersion) -> TemplateVersion:
    """The version made from a draft: locales in their canonical form, email HTML compiled, sources kept.

    Raises:
        Invalid: the draft cannot be a version.
    """
    if not is_name(draft.name):
        _refuse(
            "invalid_name",
            "a template's name has 1 to 100 letters, digits and ._-, such as order-confirmation",
            "$.name",
        )
    _check_variables(draft)
    contents = _contents(draft)
    default_locale = canonical(draft.default_locale)
    if default_locale is None or default_locale not in contents:
        _refuse(
            "invalid_locale", f"there is no content for the default locale {draft.default_locale}", "$.default_locale"
        )
    _check_fallback(contents, default_locale)
    for locale, content in contents.items():
        _check_texts(locale, content)
    sources = {locale: content for locale, content in contents.items() if content.email and content.email.html}
    version = structs.replace(
        draft,
        contents={locale: _with_compiled_email(locale, content) for locale, content in contents.items()},
        default_locale=default_locale,
        sources=sources,
    )
    _check_compiled(version)
    return version


def examples(version: TemplateVersion) -> dict[str, Any]:
    """Data made of the examples of a version's variables."""
    return {name: variable.example for name, variable in version.variables.items() if variable.example is not None}


def path_of(part: str) -> str:
    """The JSON path for a part as a TemplateError names it (`pt-BR.email.subject`)."""
    locale, _, rest = part.partition(".")
    step = f".{locale}" if locale.isalnum() else f"['{locale}']"
    return f"$.contents{step}" + (f".{rest}" if rest else "")


def _check_variables(draft: TemplateVersion) -> None:
    if len(draft.variables) > MAX_VARIABLES:
        _refuse("too_many", f"a template has at most {MAX_VARIABLES} variables", "$.variables")
    for name, variable in draft.variables.items():
        path = f"$.variables.{name[:64]}" if _VARIABLE.fullmatch(name) else "$.variables"
        if not _VARIABLE.fullmatch(name):
            _refuse("invalid_name", f"a variable's name has letters, digits and _, not {name[:64]!r}", path)
        if name in _RESERVED:
            _refuse("invalid_name", f"{name} has a meaning of its own in templates; use another name", path)
        if name in METHOD_NAMES and not variable.required:
            _refuse("invalid_name", f"a variable called {name} must be required; or use another name", path)


def _contents(draft: TemplateVersion) -> dict[str, Content]:
    if not draft.contents:
        _refuse("missing_content", "a template has content for at least one locale", "$.contents")
    if len(draft.contents) > MAX_LOCALES:
        _refuse("too_many", f"a template has at most {MAX_LOCALES} locales", "$.contents")
    contents: dict[str, Content] = {}
    for written, content in draft.contents.items():
        locale = canonical(written)
        if locale is None:
            _refuse(
                "invalid_locale", f"{written[:64]!r} is not a BCP 47 language tag such as en or pt-BR", "$.contents"
            )
        if locale in contents:
            _refuse("invalid_locale", f"there is more than one content for {locale}", path_of(locale))
        if not content.channels():
            _refuse("missing_content", "there is no channel in this content", path_of(locale))
        contents[locale] = content
    return contents


def _check_fallback(contents: dict[str, Content], default_locale: str) -> None:
    """Check that the default locale has every channel, so that every reader gets something on each."""
    complete = set(contents[default_locale].channels())
    for locale, content in contents.items():
        for channel in content.channels():
            if channel not in complete:
                _refuse(
                    "missing_content",
                    f"{locale} has content for {channel}, so the default locale {default_locale} needs it too",
                    path_of(f"{default_locale}.{channel.value}"),
                )


def _check_texts(locale: str, content: Content) -> None:
    email = content.email
    if email is not None and email.text is None and email.html is None:
        _refuse("missing_content", "an email needs text, html or both", path_of(f"{locale}.email"))
    for channel in content.channels():
        for field, text in structs.asdict(getattr(content, channel.value)).items():
            path = path_of(f"{locale}.{channel.value}.{field}")
            if text is None:
                continue
            if not text.strip() and f"{channel.value}.{field}" not in _MAY_BE_EMPTY:
                _refuse("missing_content", "this text is empty", path)
            if len(text) > MAX_SOURCE:
                _refuse("too_long", f"a text has at most {MAX_SOURCE} characters", path)
            unwanted = _UNWANTED.search(text)
            if unwanted is not None:
                _refuse(
                    "invalid_text",
                    f"the text has the character U+{ord(unwanted.group()):04X}, which no channel can carry",
                    path,
                )


def _with_compiled_email(locale: str, content: Content) -> Content:
    """The content with its email's HTML compiled, and with a text made from it where it has none."""
    email = content.email
    if email is None or email.html is None:
        return content
    try:
        html = compile_html(email.html, direction(locale))
        text = plain_text(html) if email.text is None else email.text
    except TemplateError as error:
        _refuse("invalid_template", error.detail, path_of(f"{locale}.email.html"))
    return structs.replace(content, email=structs.replace(email, html=html, text=text))


def _check_compiled(version: TemplateVersion) -> None:
    try:
        compiled = compile_version(version)
        for part in compiled.parts():
            unknown = sorted(part.variables - set(version.variables))
            if unknown:
                _refuse(
                    "undeclared_variable",
                    f"{unknown[0]} is not declared; add it to variables, or correct its name",
                    _author_path(version, part.path),
                )
        _try_out(version, compiled)
    except TemplateError as error:
        _refuse("invalid_template", error.detail, _author_path(version, error.path))


def _author_path(version: TemplateVersion, part: str) -> str:
    """The JSON path of the text from which a part comes: a mail's text may have been made from its HTML."""
    locale, _, rest = part.partition(".")
    source = version.sources.get(locale)
    if rest == "email.text" and source is not None and source.email is not None and source.email.text is None:
        return path_of(f"{locale}.email.html")
    return path_of(part)


def _try_out(version: TemplateVersion, compiled: Compiled) -> None:
    """Render everything as it would be sent: with all examples, and with those of the required variables alone.

    If a required variable has no example, only errors that come with any data count.
    """
    data = examples(version)
    required = {name: value for name, value in data.items() if version.variables[name].required}
    if len(required) < len(compiled.required):
        _render_all(version, compile_version(version, undefined="chainable"), data, AlwaysFails)
        return
    _render_all(version, compiled, data, TemplateError)
    left_out = [name for name, variable in version.variables.items() if not variable.required]
    if set(left_out) & data.keys():
        try:
            _render_all(version, compiled, required, TemplateError)
        except TemplateError as error:
            detail = f"without {', '.join(left_out)}, which may be left out: {error.detail}; guard it with {{% if … %}}"
            raise TemplateError(detail, error.path) from None


def _render_all(
    version: TemplateVersion, compiled: Compiled, data: dict[str, Any], counts: type[TemplateError]
) -> None:
    """Render every channel and locale. Raises the first error of the class `counts`."""
    for locale, content in version.contents.items():
        for channel in content.channels():
            try:
                compiled.render(channel, locale, None, data)
            except TemplateError as error:
                if isinstance(error, counts):
                    raise


def _refuse(code: str, detail: str, path: str) -> NoReturn:
    raise Invalid(code, detail, path)
