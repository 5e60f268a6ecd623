"""A minimal, cheap HTTP/1.1 reader (RFC 9112) for the load generator: keep-alive, bodies with Content-Length."""

from __future__ import annotations


class BadAnswer(RuntimeError):
    """The server sent bytes that this reader does not understand, or closed the connection too early."""


class AnswerReader:
    """Splits a stream of bytes into HTTP answers."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """Return status and body of the answer that `data` completes, or None while the answer is incomplete.

        Raises:
            BadAnswer: the answer has neither Content-Length nor a status without a body.
        """
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        status = int(head[9:12])
        start = head.find(b"\r\ncontent-length:")
        if start < 0:
            if status != 204:
                raise BadAnswer(f"an answer without Content-Length: {head[:200]!r}")
            length = 0
        else:
            stop = head.find(b"\r\n", start + 2)
            length = int(head[start + 17 : stop if stop > 0 else None])
        total = end + 4 + length
        if len(self._buffer) < total:
            return None
        body = bytes(self._buffer[end + 4 : total])
        del self._buffer[:total]
        return status, body
