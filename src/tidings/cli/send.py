"""`tidings send`: send one notification from the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidings.cli.client import connect
from tidings.cli.hints import command
from tidings.cli.options import AsJson, DataDir, Key, SettingsFile, Url
from tidings.cli.plain import CannotGoOn, command_line
from tidings.cli.status import show
from tidings.model.vocabulary import Channel, Priority

app = command_line()


@app.command()
def send(
    to: Annotated[str | None, typer.Option("--to", metavar="USER", help="A stored user's id.")] = None,
    email: Annotated[str | None, typer.Option(help="Instead of a user: an email address.")] = None,
    phone: Annotated[str | None, typer.Option(help="Instead of a user: a phone number, +49….")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Instead of a user: a device token.")] = None,
    locale: Annotated[str | None, typer.Option(help="With addresses: the language, de, pt-BR, ….")] = None,
    template: Annotated[str | None, typer.Option(help="The template's name.")] = None,
    data: Annotated[str | None, typer.Option(metavar="JSON", help="The template's data; @FILE reads a file.")] = None,
    subject: Annotated[str | None, typer.Option(help="Without a template: the subject or title.")] = None,
    text: Annotated[str | None, typer.Option(help="Without a template: the text.")] = None,
    channel: Annotated[
        list[Channel] | None, typer.Option(help="Only this channel; may be given several times.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="The category, which users can opt out of.")] = None,
    priority: Annotated[Priority | None, typer.Option(help="The lane.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When to send: 2026-01-31T09:00:00Z.")] = None,
    at_local: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="When to send, in the user's local time: 09:00 (the next one) or 2026-01-31T09:00."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its progress until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Send one notification.

    Its content is a template with data, or a text. It goes to a stored user, or to the given addresses.
    """
    inline = {"email": email, "phone": phone, "devices": device or None, "locale": locale}
    body: dict[str, Any] = {"to": _recipient(to, {name: value for name, value in inline.items() if value is not None})}
    if template is not None:
        if text is not None or subject is not None:
            raise CannotGoOn("give either --template (with --data), or --text (with --subject)")
        body |= {"template": template, "data": _data(data)}
    elif text is None or data is not None:
        raise CannotGoOn("say what to send: --template NAME --data JSON, or --text TEXT (and --subject SUBJECT)")
    else:
        body["content"] = _content(subject, text, channel or _reachable(body["to"]))
    times = {"send_at": at, "send_at_local": at_local}
    options = {"channels": channel, "category": category, "priority": priority, **times}
    body |= {name: value for name, value in options.items() if value}
    with connect(url, key, settings_file, data_dir) as api:
        answer = api.call("POST", "/v1/notifications", body)
        if follow:
            show(api, answer["id"], follow=True, as_json=as_json)
        elif as_json:
            typer.echo(msgspec.json.encode(answer).decode())
        else:
            typer.echo(f"accepted {answer['id']}")
            typer.echo(f"Its progress: {command('status ' + answer['id'])}")


def _recipient(user: str | None, inline: dict[str, Any]) -> dict[str, Any]:
    if user is not None and not inline:
        return {"user_id": user}
    if user is None and inline.keys() - {"locale"}:
        return inline
    raise CannotGoOn("say to whom: either --to USER, or some of --email, --phone and --device (and --locale)")


def _reachable(recipient: dict[str, Any]) -> list[Channel]:
    if "user_id" in recipient:
        return list(Channel)
    channels = {"email": Channel.EMAIL, "phone": Channel.SMS, "devices": Channel.PUSH}
    return [channel for name, channel in channels.items() if name in recipient]


def _content(subject: str | None, text: str, channels: list[Channel]) -> dict[str, Any]:
    title = subject or text.strip().partition("\n")[0][:80]
    kinds: dict[Channel, dict[str, str]] = {
        Channel.EMAIL: {"subject": title, "text": text},
        Channel.SMS: {"text": text},
        Channel.PUSH: {"title": title, "body": text},
        Channel.INAPP: {"title": title, "body": text},
    }
    return {channel.value: kinds[channel] for channel in channels}


def _data(text: str | None) -> Any:
    if text is None:
        return {}
    try:
        body = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        return msgspec.json.decode(body, type=dict[str, Any])
    except OSError as error:
        raise CannotGoOn(f"--data: {text[1:]} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise CannotGoOn(f'--data must be a JSON object, such as \'{{"name": "Ada"}}\': {error}') from error
