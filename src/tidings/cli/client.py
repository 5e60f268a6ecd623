"""The API's client, for commands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
from pyreqwest.client import SyncClientBuilder
from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError

from tidings.cli.folder import DataFolder
from tidings.cli.options import settings_from
from tidings.cli.plain import CannotGoOn
from tidings.config import API_KEY, API_URL, api_access

_TIMEOUT = timedelta(seconds=30)


class Refused(CannotGoOn):
    """The API refused a request; `status` is the HTTP status."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        where = f" (at {problem['path']})" if problem.get("path") not in {None, "$"} else ""
        request_id = f" [request {problem['request_id']}]" if problem.get("request_id") and status >= 500 else ""
        text = problem.get("detail") or problem.get("title") or "no reason was given"
        super().__init__(f"the API answered {status}: {text}{where}{request_id}", 1)
        self.status = status


class Api:
    """The API at `url`, used with `key`."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._client = SyncClientBuilder().timeout(_TIMEOUT).no_proxy().build()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """The decoded answer; None if it is empty.

        Raises:
            Refused: the API refused the request.
            CannotGoOn: nothing answers, or not in time.
        """
        request = self._client.request(method, self.url + path).bearer_auth(self._key)
        if query:
            request = request.query(query)
        if body is not None:
            request = request.header("content-type", "application/json").body_bytes(msgspec.json.encode(body))
        try:
            answer = request.build().send()
            content = bytes(answer.bytes())
        except RequestTimeoutError as error:
            raise CannotGoOn(f"the API at {self.url} gave no answer in time; try again", 1) from error
        except PyreqwestError as error:
            raise CannotGoOn(
                f"nothing answers at {self.url}. Does Tidings run there? Set another address with --url or {API_URL}.",
                1,
            ) from error
        if answer.status >= 400:
            raise Refused(answer.status, _problem(content))
        return msgspec.json.decode(content) if content else None


def connect(url: str | None, key: str | None, settings_file: Path | None, data_dir: Path | None) -> Api:
    """The API with its URL and key from the options, the environment, or the system that runs on the data folder.

    Raises:
        CannotGoOn: none of them gives a URL, or a key.
    """
    environment_url, environment_key = api_access()
    url, key = url or environment_url, key or environment_key
    if url is None or key is None:
        folder = DataFolder(settings_from(settings_file, data_dir).data_dir)
        if url is None:
            running = folder.running()
            if running is None:
                raise CannotGoOn(
                    f"nothing runs on the data folder {folder.path}. Start it with `tidings up`, name its folder with "
                    f"--data-dir, or give the API's address with --url or {API_URL}."
                )
            url = running.api_url
        key = key or folder.demo_key
        if key is None:
            raise CannotGoOn(f"give an API key with --key or {API_KEY}; `tidings key create` makes one")
    return Api(url, key)


def _problem(content: bytes) -> Mapping[str, Any]:
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {"detail": content[:200].decode(errors="replace")}
    return problem
