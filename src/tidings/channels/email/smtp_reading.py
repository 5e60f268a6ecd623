"""Reading an SMTP server's replies, however the network splits and joins them.

Facts: RFC 5321 section 4.2.1 (lines of a reply: a hyphen after the code where more follow) and 4.5.3.1.5 (512 bytes a
line; servers send longer ones).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\n]*?))?[ \t\r]*")
LONGEST_REPLY_BYTES = 32_768
"""Far more than any real reply has; a server that sends more without an end is not believed."""


class Garbled(Exception):
    """What came is not a reply of an SMTP server. The text is what came, shortened."""


class Reply(NamedTuple):
    """The code, and the text of all lines, with a line feed between two."""

    code: int
    text: str


class Replies:
    """Makes replies of the bytes of one connection."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Reply]:
        """The replies that `data` completes, in order. The code of a reply is that of its last line.

        Raises:
            Garbled: no reply, or one without an end; raised after the replies before it were given out.
        """
        if self._rest:
            data = self._rest + data
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            found = _LINE.fullmatch(data, start, end)
            if found is None:
                raise Garbled(_shown(data[start:end]))
            start = end + 1
            code, mark, text = found.groups()
            if mark == b"-":
                self._lines.append(text)
                self._size += len(text) + 5
                if self._size > LONGEST_REPLY_BYTES:
                    raise Garbled(f"a reply without an end: {_shown(self._lines[0])}")
                continue
            if self._lines:
                text = b"\n".join([*self._lines, text or b""])
                self._lines, self._size = [], 0
            yield Reply(int(code), text.decode("utf-8", "replace") if text else "")
        self._rest = data[start:]
        if len(self._rest) > LONGEST_REPLY_BYTES:
            raise Garbled(f"a line without an end: {_shown(self._rest)}")


def _shown(data: bytes) -> str:
    return repr(bytes(data[:100]))[1:]
