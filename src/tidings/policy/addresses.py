"""Checks email addresses, phone numbers, device tokens, timezones, locales and names, and brings each into one form.

Each function takes the text and its JSON path and returns the form that is stored. It raises Invalid, saying what would
be right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import NoReturn

import idna
import phonenumbers

from tidings.model.errors import Invalid
from tidings.model.user import Address
from tidings.model.vocabulary import Channel
from tidings.policy import locale as locales
from tidings.policy import pasted

MAX_EMAIL = 254
MAX_LOCAL_PART = 64
MAX_DOMAIN = 253
MAX_DEVICE_TOKEN = 4096
MAX_NAME = 200

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TOP_LABEL = r"(?:[a-z]|[a-z](?:[a-z0-9-]{0,61}[a-z0-9]))"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_TOP_LABEL}")
_USUAL_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@(?!xn--)(?:{_LABEL}\.(?!xn--))+{_TOP_LABEL}")
_LONGEST_PHONE = 100
"""Characters, with separators and everything that was pasted along."""
_DIALLED = re.compile(r"\+[0-9]*")
_FORMERLY_MEXICAN = re.compile(r"\+521[0-9]{10}")
"""Until 2019 Mexican mobile numbers began with a 1; old records and some vendors still write it."""
_OTHER_AT_SIGNS = "\uff20\ufe6b"
_IN_DOMAINS = re.compile(r"[a-z0-9.-]")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_DEVICE = re.compile(rf"(?!\.{{1,2}}\Z)[!-~]{{1,{MAX_DEVICE_TOKEN}}}")
_NOT_PLACES = frozenset({"Factory", "localtime", "posixrules"})


def email(text: str, path: str = "$.email") -> str:
    """The email address as it is stored: a local part as in RFC 5322 or RFC 6531, and a domain of several labels.

    The domain becomes lower-case and, if international, IDNA 2008 A-labels. The local part stays as it is, in NFC: only
    the receiver knows what it means. White space at the ends and invisible characters, which come from pasting, are
    dropped. Refused are quoted local parts, comments, address literals, and characters that NFKC would change
    (full-width letters, ligatures), so that one mailbox has one spelling; also a dot at an end of the local part and
    two dots in a row, which could only be delivered in quotes.
    """
    if len(text) <= MAX_EMAIL and _USUAL_EMAIL.fullmatch(text) and text.index("@") <= MAX_LOCAL_PART:
        return text
    text = pasted.visible(text)
    local, separator, domain = text.rpartition("@")
    if not separator or not local or not domain:
        detail = "an email address has the form name@example.com"
        wrong = next((place for place, character in enumerate(text) if character in _OTHER_AT_SIGNS), None)
        if wrong is not None:
            detail += f"; it has {pasted.culprit(text, wrong)}"
        _refuse("invalid_email", detail, path)
    if len(text) > MAX_EMAIL:
        _refuse("invalid_email", f"an email address has at most {MAX_EMAIL} characters", path)
    domain = _domain(domain, path)
    if len(local.encode("utf-8", "replace")) > MAX_LOCAL_PART:
        _refuse("invalid_email", f"the part before the @ has at most {MAX_LOCAL_PART} bytes", path)
    if not local.isascii():
        local = unicodedata.normalize("NFC", local)
        _check_local_part(local, path)
        if unicodedata.normalize("NFKC", local) != local:
            _refuse("invalid_email", "write the part before the @ in ordinary letters, not full-width or joined", path)
    _check_local_part(local, path)
    if len(local.encode()) + 1 + len(domain) > MAX_EMAIL:
        _refuse("invalid_email", f"an email address has at most {MAX_EMAIL} bytes", path)
    return f"{local}@{domain}"


def phone(text: str, path: str = "$.phone") -> str:
    """The phone number in E.164 (`+4930123456`).

    Separators, brackets and invisible characters are dropped, and digits of other scripts become ASCII. The number must
    exist in its country's numbering plan.
    """
    number, why = _phone(text)
    if number is None:
        _refuse("invalid_phone", why, path)
    return number


def person_of(address: str) -> str:
    """The key of an inline recipient whose `Recipient.key` is `address`: the same for all spellings of the address."""
    if "@" in address:
        return identity(Address(Channel.EMAIL, address)).value
    return identity(Address(Channel.SMS, address)).value if address.startswith("+") else address


def identity(address: Address) -> Address:
    """The form of an address under which the suppression list knows it: the same for all of its spellings.

    An email address is known in lower case. RFC 5321 leaves the case of a local part to the receiver, but hardly any
    receiver tells `Ada@` from `ada@`, and vendors report bounces in a case of their own; to suppress a stranger's
    mailbox as well is the lesser evil. Dots and plus tags stay: their meaning differs from receiver to receiver. A
    value that this module does not accept stays as it is.
    """
    value = address.value
    if address.channel is Channel.EMAIL:
        lower = value.lower().replace("ς", "σ")  # two small letters of one capital
        if not lower.isascii() or "xn--" in lower:
            lower = _checked(email, lower).lower()
    elif address.channel is Channel.SMS and (
        not (value[1:].isdigit() and value.isascii()) or _FORMERLY_MEXICAN.fullmatch(value)
    ):
        lower = _checked(phone, value)
    else:
        return address
    return address if lower == value else Address(address.channel, lower)


def _checked(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except Invalid:
        return text


def device(text: str, path: str = "$.devices[0]") -> str:
    """The device token: opaque, of visible ASCII without spaces. Invisible characters from pasting are dropped."""
    text = pasted.visible(text)
    if not _DEVICE.fullmatch(text):
        detail = f"a device token is 1 to {MAX_DEVICE_TOKEN} visible ASCII characters"
        wrong = next((place for place, character in enumerate(text) if not "!" <= character <= "~"), None)
        if wrong is not None:
            detail += f"; it has {pasted.culprit(text, wrong)}"
        _refuse("invalid_device", detail, path)
    return text


def timezone(text: str, path: str = "$.timezone") -> str:
    """The IANA timezone name as the database spells it; `text` may be in any case."""
    name = _timezones().get(text.lower())
    if name is None:
        _refuse("invalid_timezone", "write an IANA timezone name such as Europe/Berlin or America/New_York", path)
    return name


def locale(text: str, path: str = "$.locale") -> str:
    """The BCP 47 language tag in its canonical form (`pt-BR`); an underscore counts as a hyphen."""
    tag = locales.canonical(text)
    if tag is None:
        _refuse("invalid_locale", "write a BCP 47 language tag such as en, pt-BR or zh-Hant", path)
    return tag


def name(text: str, path: str = "$.name") -> str:
    """A person's name: one line, without characters that could forge a header or reorder the text around it."""
    stripped = text.strip(" ")
    if not stripped or len(stripped) > MAX_NAME:
        _refuse("invalid_name", f"a name has 1 to {MAX_NAME} characters", path)
    if not is_plain(stripped):
        _refuse("invalid_name", "a name is one line without control characters", path)
    return stripped


def is_plain(text: str) -> bool:
    """Whether a text has no control characters, line separators, unpaired surrogates or bidi overrides."""
    return text.isprintable() or all(
        character == " "
        or (unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} and character not in _OVERRIDES)
        for character in text
    )


_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _domain(text: str, path: str) -> str:
    domain = text.lower()
    if not domain.isascii() or "xn--" in domain:
        try:
            domain = idna.encode(text, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            _refuse("invalid_email", "the domain after the @ is not a valid international domain name", path)
    if len(domain) > MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
        detail = "after the @ comes a domain name such as example.com"
        wrong = next((place for place, character in enumerate(domain) if not _IN_DOMAINS.fullmatch(character)), None)
        if wrong is not None:
            detail += f"; it has {pasted.culprit(domain, wrong)}"
        _refuse("invalid_email", detail, path)
    return domain


def _check_local_part(local: str, path: str) -> None:
    """Raise Invalid, naming the wrong character, unless `local` is a dot-atom."""
    if _LOCAL_PART.fullmatch("".join("x" if _is_letter(character) else character for character in local)):
        return
    for place, character in enumerate(local):
        if character != "." and not _is_letter(character) and not re.fullmatch(_ATOM, character):
            _refuse(
                "invalid_email",
                "the part before the @ may hold letters, digits and !#$%&'*+/=?^_`{|}~-, and single dots between them; "
                f"it has {pasted.culprit(local, place)}",
                path,
            )
    _refuse(
        "invalid_email",
        "the part before the @ has single dots between other characters, none at its ends and no two in a row: any "
        "other form could only be delivered in quotes, which many servers refuse",
        path,
    )


def _is_letter(character: str) -> bool:
    """Whether a character beyond ASCII may stand in a local part: letters, marks and digits of any script."""
    return character > "\x7f" and unicodedata.category(character)[0] in "LMN"


@lru_cache(maxsize=16_384)
def _phone(text: str) -> tuple[str | None, str]:
    """The number in E.164 and "", or None and the fault."""
    if len(text) > _LONGEST_PHONE:
        return None, f"a phone number has at most 15 digits; this has {len(text)} characters"
    dialled = pasted.digits(text)
    if "+" not in dialled:
        return None, "write the number in international form, with + and country: +4930123456"
    if not _DIALLED.fullmatch(dialled):
        wrong = next(place for place, character in enumerate(text) if not _belongs(text, place, character))
        return None, f"a phone number has a + and digits; this has {pasted.culprit(text, wrong)}"
    if _FORMERLY_MEXICAN.fullmatch(dialled):
        dialled = "+52" + dialled[4:]
    try:
        number = phonenumbers.parse(dialled, None)
    except phonenumbers.NumberParseException as error:
        if error.error_type == phonenumbers.NumberParseException.INVALID_COUNTRY_CODE:
            return None, f"no country has a number that begins with {dialled[:4]}"
        return None, f"a phone number has 7 to 15 digits with its country; this has {len(dialled) - 1}"
    if not phonenumbers.is_valid_number(number):
        return None, _no_such_number(number)
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if not _E164.fullmatch(written):
        return None, f"a phone number has 7 to 15 digits with its country; this has {len(written) - 1}"
    return written, ""


def _belongs(text: str, place: int, character: str) -> bool:
    """Whether a phone number may have this character at this place."""
    folded = pasted.digits(character)
    return folded == "" or "0" <= folded <= "9" or (folded == "+" and pasted.digits(text[:place]) == "")


def _no_such_number(number: phonenumbers.PhoneNumber) -> str:
    """Why a number does not exist: how many digits its country's numbers have, or that no plan has it."""
    region = phonenumbers.region_code_for_country_code(number.country_code or 0)
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    possible = () if metadata is None or metadata.general_desc is None else metadata.general_desc.possible_length
    own = len(phonenumbers.national_significant_number(number))
    if possible and own not in possible:
        lengths = " or ".join(map(str, possible)) if len(possible) <= 3 else f"{min(possible)} to {max(possible)}"
        return f"after +{number.country_code} a number has {lengths} digits; this one has {own}"
    return "there is no such number in any country's numbering plan; check its digits"


@lru_cache(maxsize=1)
def _timezones() -> dict[str, str]:
    # The package's own list: walking through the machine's database finds fewer while files cannot be opened.
    names = (files("tzdata") / "zones").read_text(encoding="utf-8").split()
    return {name.lower(): name for name in names if name not in _NOT_PLACES}


def _refuse(code: str, detail: str, path: str) -> NoReturn:
    raise Invalid(code, detail, path)
