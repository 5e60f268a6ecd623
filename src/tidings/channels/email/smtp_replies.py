"""The error table of SMTP: what a server's refusals mean.

Facts: RFC 5321 section 4.2 (replies: 4yz is for now, 5yz for good), RFC 4954 section 6 (logging in), RFC 7504 (521 and
556), RFC 7505 (5.1.10: a domain that takes no mail), RFC 7372 (5.7.20 to 5.7.26: authentication of the sender),
RFC 6647 (greylisting, which wants minutes), RFC 3463 and the registry of RFC 5248
(https://www.iana.org/assignments/smtp-enhanced-status-codes) for the enhanced codes.

If the server puts off a recipient or a mail (4yz to RCPT or DATA), the mail is offered again patiently: greylists
accept a mail that comes back after minutes. A server that puts off every mail is out, unless it names the mailboxes.
4yz to MAIL, and 421, with which the server ends the session, are about the sender or the server; nothing was offered
yet.

An enhanced code counts before the reply's own code if both agree whether the refusal is for now or for good. An address
is suppressed only if the code says that the mailbox or its domain does not exist; a bare 550 may also mean unwanted
mail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from tidings.channels.errors import ACCOUNT_WAIT_S, follow
from tidings.channels.http import brief
from tidings.model.sending import About, Rejected, Retry
from tidings.policy.retry import about

CLOSING = 421
_SIZES = ("5.2.3", "5.3.4")
_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?!\S)")

_GREYLIST_WAIT_S = 300.0
_FULL_WAIT_S = 900.0
_RECIPIENT = About.DELIVERY
_LOGIN = "the server wants another login"
_NOT_PROVEN = "the sender's domain is not proven to be ours"


def _login(detail: str) -> Retry:
    return Retry("unauthorized", ACCOUNT_WAIT_S, detail, About.UNOFFERED)


def _put_off(reason: str, after_s: float | None, detail: str, about: About | None = None) -> Retry:
    """The row for a server that wants to see this one mail again, in minutes or hours (RFC 5321 section 4.5.4.1).

    `about` None: if the server puts off every mail, it is meant itself.
    """
    return Retry(reason, after_s, detail, about, patient=True)


ERRORS: Mapping[int | str, Retry | Rejected] = {
    421: Retry("service_unavailable", None, "the server is closing or too busy", About.UNOFFERED),
    450: _put_off("mailbox_busy", 60.0, "the mailbox is busy, or the server wants to see the mail again", _RECIPIENT),
    451: _put_off("local_error", None, "an error in the server, or a greylist"),
    452: _put_off("insufficient_storage", 60.0, "the server has no room"),
    454: _login("the login cannot be checked now"),
    530: _login(_LOGIN),
    534: _login(_LOGIN),
    535: _login("the username or the password is wrong"),
    538: _login("the server wants encryption before the login"),
    550: Rejected("mailbox_unavailable", detail="no such mailbox, or unwanted mail: the server does not say which"),
    551: Rejected("user_not_local", detail="the person is elsewhere"),
    552: Rejected("storage_exceeded", detail="the mailbox is full, or the mail too large"),
    553: Rejected("mailbox_name_not_allowed", detail="the server does not take that address"),
    554: Rejected("refused", fallback=True, detail="refused without a reason"),
    556: Rejected("domain_takes_no_mail", suppress=True, detail="the domain takes no mail"),
    "4yz": _put_off("temporary", None, "any other for now"),
    "5yz": Rejected("refused", fallback=True, detail="any other for good"),
    "4.2.1": _put_off("mailbox_disabled", _GREYLIST_WAIT_S, "the mailbox takes nothing now", _RECIPIENT),
    "4.2.2": _put_off("mailbox_full", _FULL_WAIT_S, "the mailbox is full", _RECIPIENT),
    "4.7.0": _put_off("deferred_by_policy", 60.0, "too much at once, or the server does not trust us yet"),
    "4.7.1": _put_off("deferred_by_policy", _GREYLIST_WAIT_S, "greylisted: the server wants to see the mail again"),
    "4.7.28": Retry("throttled", _GREYLIST_WAIT_S, "too much mail from us", About.ACCOUNT),
    "5.1.1": Rejected("no_such_mailbox", suppress=True, detail="there is no such mailbox"),
    "5.1.2": Rejected("no_such_domain", suppress=True, detail="there is no such domain"),
    "5.1.3": Rejected("invalid_address", suppress=True, detail="not a valid address"),
    "5.1.6": Rejected("mailbox_moved", suppress=True, detail="the mailbox has moved and left no address"),
    "5.1.7": Rejected("sender_refused", fallback=True, detail="the sender's address is not valid"),
    "5.1.8": Rejected("sender_refused", fallback=True, detail="the server does not take the sender"),
    "5.1.10": Rejected("domain_takes_no_mail", suppress=True, detail="the domain takes no mail (null MX)"),
    "5.2.1": Rejected("mailbox_disabled", suppress=True, detail="the mailbox is closed"),
    "5.2.2": Rejected("mailbox_full", detail="the mailbox is full"),
    "5.2.3": Rejected("too_large", detail="too large for the mailbox"),
    "5.3.4": Rejected("too_large", fallback=True, detail="too large for the server"),
    "5.4.4": Rejected("unroutable", detail="the server finds no way to the domain"),
    "5.7.1": Rejected("refused_by_policy", fallback=True, detail="the server does not take it from us"),
    "5.7.8": _login("the username or the password is wrong"),
    "5.7.20": Rejected("sender_not_authenticated", fallback=True, detail=_NOT_PROVEN),
    "5.7.23": Rejected("sender_not_authenticated", fallback=True, detail=_NOT_PROVEN),
    "5.7.25": Rejected("sender_not_authenticated", fallback=True, detail="our address has no name"),
    "5.7.26": Rejected("sender_not_authenticated", fallback=True, detail=_NOT_PROVEN),
    "5.7.27": Rejected("sender_not_authenticated", fallback=True, detail="the sender's domain takes no mail"),
}


def judge(code: int, text: str, *, to_sender: bool = False) -> Retry | Rejected:
    """What follows from a refusal (4yz, 5yz); `to_sender`: of the sender, so it says nothing about the recipient."""
    detail = brief(f"{code} {text}")
    found = _ENHANCED.match(text)
    enhanced = found[0] if found is not None and found[1] == str(code)[:1] else ""
    known = ERRORS.get(enhanced) or ERRORS.get(code) or ERRORS[f"{str(code)[:1]}yz"]
    if code == CLOSING and not (isinstance(known, Retry) and known.about is About.ACCOUNT):
        known = ERRORS[code]
    if to_sender and isinstance(known, Rejected):
        # MAIL names the size of the mail, too (RFC 1870 section 6.1).
        is_size = enhanced in _SIZES or (code == 552 and not enhanced)
        known = ERRORS["5.3.4" if is_size else "5.1.8"]
    elif to_sender and isinstance(known, Retry) and about(known) is About.DELIVERY:
        known = msgspec.structs.replace(known, about=About.UNOFFERED)
    return follow(known, detail)
