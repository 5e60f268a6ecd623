"""Every operation of the OpenAPI document keeps its promises in the running system, for good and for hostile input.

The tests come from the document, so a new operation is tested without a change here. schemathesis sends the examples,
the edges of every schema, random requests, and sequences of operations that use each other's answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.result import Ok
from schemathesis.engine import StopReason, events, from_schema
from schemathesis.engine.run import PhaseName
from schemathesis.openapi.checks import RejectedPositiveData

from support.system import System, running, settings_for
from tidings.api.samples import DEMO_TEMPLATE, DEMO_USER, ORDER, WELCOME

SETTINGS: dict[str, Any] = {
    "seed": 20260131,
    "continue-on-failure": True,
    "checks": {"enabled": True},
    "generation": {"deterministic": True, "max-examples": 12, "no-shrink": True, "database": "none"},
    "phases": {"stateful": {"max-steps": 6}},
}
"""All checks of schemathesis, with the same requests in each run."""

SHAPE = {
    "invalid_parameter",
    "invalid_value",
    "malformed_json",
    "missing_field",
    "unknown_field",
    "unknown_parameter",
    "wrong_type",
}
"""The codes of refusals that a schema in the document can predict."""


def to_be_mended(failure: Failure, response: Response) -> bool:
    """Whether a check's failure is a fault of ours. Two kinds of failures are none, for all operations:

    - A request that fits the document may be refused for its meaning: no schema says that a template must exist and
      compile, that a phone number must be valid in its country, or that a cursor must have been given out. But it must
      not be refused for its shape.
    - A batch answers each item on its own, so a bad item does not make the request fail; its result has the error.
    """
    match failure:
        case RejectedPositiveData():
            return problem_code(response) in SHAPE
        case AcceptedNegativeData():
            return not any("error" in result for result in results(response))
    return True


def problem_code(response: Response) -> str | None:
    body = response.json()
    return body.get("code") if isinstance(body, dict) else None


def results(response: Response) -> list[dict[str, Any]]:
    try:
        body = response.json()
    except json.JSONDecodeError:
        return []
    results = body.get("results", []) if isinstance(body, dict) else []
    return [result for result in results if isinstance(result, dict)]


class Run:
    """A run of schemathesis: the requests it sent, and the failures it found."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.errors: list[str] = []
        self.sent: dict[PhaseName, int] = {}
        self.tried: set[str] = set()
        self.ended: StopReason | None = None

    def take(self, stream: Iterable[events.EngineEvent]) -> None:
        for event in stream:
            match event:
                case events.ScenarioFinished():
                    self._scenario(event)
                case events.NonFatalError():
                    self.errors.append(f"{event.label}: {event.info.format()}")
                case events.FatalError():
                    raise event.exception
                case events.EngineFinished():
                    self.ended = event.stop_reason

    def _scenario(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        self.sent[event.phase] = self.sent.get(event.phase, 0) + len(recorder.interactions)
        self.tried.update(node.value.operation.label for node in recorder.cases.values())
        for checks in recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    what = f"{check.name}: {failure.operation}: {failure.title}\n{failure.message}"
                    self.broken.setdefault(what, f"{what}\n{check.failure_info.code_sample}")


def explore(url: str, key: str) -> tuple[Run, set[str]]:
    """Test all operations; the run, and the operations in the document."""
    config = SchemathesisConfig.from_dict(SETTINGS | {"headers": {"Authorization": f"Bearer {key}"}})
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)

    @schema.hook
    def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
        return to_be_mended(failure, response)

    run = Run()
    run.take(from_schema(schema).execute())
    return run, {found.ok().label for found in schema.get_all_operations() if isinstance(found, Ok)}


async def furnish(system: System) -> None:
    """Create the user and the template that the examples use."""
    await system.user(DEMO_USER, email="demo@example.com")
    template = {
        **WELCOME,
        "name": DEMO_TEMPLATE,
        "variables": {name: {"example": ORDER["data"][name]} for name in ORDER["data"]},
    }
    assert (await system.call("POST", "/v1/templates", template)).status == 201
    assert (await system.call("POST", f"/v1/templates/{DEMO_TEMPLATE}/publish", {"version": 1})).status == 200


@pytest.mark.timeout(300)
# What schemathesis sends may be long; hypothesis would rather not print it.
@pytest.mark.filterwarnings("ignore:Generating overly large repr:hypothesis.errors.HypothesisWarning")
# The system runs in this process and draws random numbers too, sometimes while hypothesis does.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
async def test_every_operation_keeps_what_the_document_promises(tmp_path: Path, postgres_dsn: str) -> None:
    async with running(settings_for(tmp_path, postgres_dsn, None)) as system:
        await furnish(system)
        run, operations = await asyncio.to_thread(explore, system.api, system.key)
        alive = await system.call("GET", "/readyz")
    assert not run.errors, "\n\n".join(run.errors)
    assert not run.broken, "\n\n".join(run.broken.values())
    assert run.ended is StopReason.COMPLETED
    assert run.tried == operations
    assert set(run.sent) >= {PhaseName.EXAMPLES, PhaseName.COVERAGE, PhaseName.FUZZING, PhaseName.STATEFUL_TESTING}
    parts = {"store": "ok", "queue": "ok"}
    assert alive.json == {"status": "ok", "parts": parts, "roles": ["api", "sandbox", "worker"]}
