"""`tidings up`: the whole system on one machine, in one command."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import webbrowser
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Annotated

import structlog
import typer

from tidings.backends.postgres.binaries import Source
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server
from tidings.cli import first_start
from tidings.cli.child import READY_WITHIN_S, Child
from tidings.cli.folder import DataFolder, Running
from tidings.cli.options import DataDir, SettingsFile, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say, step
from tidings.cli.ports import Wish, choose
from tidings.cli.restarting import SIGNAL, Restarts
from tidings.cli.tenants import demo_key
from tidings.config import Settings
from tidings.listening import listen
from tidings.telemetry import metrics

app = command_line()

ROLES = ("sandbox", "api", "worker")
_TRIM_LOGS_EVERY_S = 60.0


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="The API's port [8400]; 0 takes any free one.")] = None,
    sandbox_port: Annotated[int | None, typer.Option(help="The sandbox's port [8401]; 0: any free one.")] = None,
    smtp_port: Annotated[int | None, typer.Option(help="The sandbox's SMTP port [8425]; 0: any free one.")] = None,
    postgres: Annotated[
        str | None,
        typer.Option(metavar="bundled|system", help="The PostgreSQL to start [system, if there is one]."),
    ] = None,
    data_dir: DataDir = None,
    settings_file: SettingsFile = None,
    open_viewer: Annotated[bool, typer.Option("--open", help="Open the sandbox's viewer in the browser.")] = False,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Start everything on this machine, until Ctrl-C.

    It starts PostgreSQL (unless database.dsn is set), the API, the worker, and
    the sandbox, which stands in for the vendors. `tidings restart` (or SIGUSR1)
    replaces the processes while they work.
    """
    if port == 0:
        # A user who wants any free port for the API gets free ports for the sandbox too.
        sandbox_port = 0 if sandbox_port is None else sandbox_port
        smtp_port = 0 if smtp_port is None else smtp_port
    chosen = {"port": sandbox_port, "smtp_port": smtp_port}
    settings = settings_from(
        settings_file,
        data_dir,
        database={} if postgres is None else {"server": postgres},
        http={} if port is None else {"port": port},
        sandbox={name: value for name, value in chosen.items() if value is not None},
    )
    structlog.configure(processors=[_plain_event], logger_factory=structlog.PrintLoggerFactory())
    with suppress(asyncio.CancelledError):
        asyncio.run(_up(settings, open_viewer, supervised))


async def _up(settings: Settings, open_viewer: bool, supervised: bool) -> None:
    began = time.monotonic()
    folder = DataFolder(settings.data_dir)
    folder.prepare()
    settings = settings.model_copy(update={"data_dir": folder.path})
    children: list[Child] = []
    _stop_on_signals(children, supervised)
    with folder.mine():
        settings = _with_ports(settings)
        folder.fresh_metrics()
        say(f"Tidings starts; its data is in {folder.path}")
        async with AsyncExitStack() as stack:
            # This process keeps the sockets open, so that connections wait while a child is restarted.
            listening = {role: [stack.enter_context(one) for one in sockets] for role, sockets in _listen(settings)}
            dsn = settings.database.dsn
            if dsn is None:
                dsn = await stack.enter_async_context(_postgres(folder, settings.database.server))
            settings = settings.model_copy(update={"database": settings.database.model_copy(update={"dsn": dsn})})
            with step("Schema"):
                await migrate(dsn)
            roles = [role for role in ROLES if role != "sandbox" or settings.uses_sandbox]

            def announce() -> None:
                folder.announce(_running(settings, children, dsn, restarts))

            restarts = Restarts(children, folder.take_restart_request, announce)
            asyncio.get_running_loop().add_signal_handler(SIGNAL, restarts.ask)
            environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder.metrics)}
            children += [
                Child(
                    role,
                    settings,
                    folder.logs / f"{role}.log",
                    announce,
                    ended=partial(metrics.forget, folder.metrics),
                    environment=environment,
                    listening=listening.get(role, ()),
                )
                for role in roles
            ]
            await stack.enter_async_context(_kept(children))
            with step("Processes: " + ", ".join(roles)):
                await _all_ready(children)
            key, is_new = await demo_key(dsn, folder)
            with step("Demo: tenant, user, template"):
                await asyncio.to_thread(first_start.prepare, settings.http.local_url, key)
            first_start.greet(settings, folder, key if is_new else None, time.monotonic() - began)
            if open_viewer and settings.uses_sandbox:
                webbrowser.open(first_start.viewer_url(settings, folder))
            await restarts.run()


def _with_ports(settings: Settings) -> Settings:
    """The settings, with a free port for each port that is 0. Raises CannotGoOn if a port is in use."""
    http, sandbox = settings.http, settings.sandbox
    wishes = [Wish(http.host, http.port, "the API", "--port")]
    if settings.uses_sandbox:
        wishes.append(Wish(sandbox.host, sandbox.port, "the sandbox", "--sandbox-port"))
        wishes.append(Wish(sandbox.host, sandbox.smtp_port, "the sandbox's SMTP server", "--smtp-port"))
    operations = settings.operations
    if operations.port is not None:
        wishes.append(Wish(operations.host, operations.port, "the operations", "operations.port"))
    ports = choose(wishes)
    update: dict[str, object] = {"http": http.model_copy(update={"port": ports[0]})}
    if operations.port is not None:
        update["operations"] = operations.model_copy(update={"port": ports[-1]})
    if settings.uses_sandbox:
        update["sandbox"] = sandbox.model_copy(update={"port": ports[1], "smtp_port": ports[2]})
    return settings.model_copy(update=update)


def _listen(settings: Settings) -> Iterator[tuple[str, list[socket.socket]]]:
    """Each role that listens, with its listening sockets. Raises SettingsError."""
    http, sandbox = settings.http, settings.sandbox
    yield "api", [listen(http.host, http.port)]
    if settings.uses_sandbox:
        viewer = listen(sandbox.host, sandbox.port, "the sandbox", "--sandbox-port")
        yield "sandbox", [viewer, listen(sandbox.host, sandbox.smtp_port, "the sandbox's SMTP server", "--smtp-port")]


@asynccontextmanager
async def _postgres(folder: DataFolder, source: Source | None) -> AsyncIterator[str]:
    """Run a PostgreSQL of our own for as long as the context lasts; its DSN."""
    server = Server(folder.path, source=source)
    origin = await asyncio.to_thread(lambda: server.origin)
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        with step(origin):
            dsn = await asyncio.shield(starting)
        yield dsn
    finally:
        # An interrupted start goes on in its thread. The server can be stopped only after the start has ended.
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def _kept(children: Sequence[Child]) -> AsyncIterator[None]:
    """Keep the children running for as long as the context lasts, then stop them."""
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.keep())
        logs = group.create_task(_trim_logs(children))
        try:
            yield
        finally:
            logs.cancel()
            await asyncio.gather(*(child.stop() for child in children))


async def _trim_logs(children: Sequence[Child]) -> None:
    while True:
        await asyncio.sleep(_TRIM_LOGS_EVERY_S)
        for child in children:
            await asyncio.to_thread(child.trim_log)


async def _all_ready(children: Sequence[Child]) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await asyncio.gather(*(child.ready.wait() for child in children))
    except TimeoutError as error:
        late = next(child for child in children if not child.ready.is_set())
        raise CannotGoOn(
            f"the {late.role} is not ready after {READY_WITHIN_S:.0f} s. Its log: {late.log}", 1
        ) from error


def _running(settings: Settings, children: Sequence[Child], dsn: str, restarts: Restarts) -> Running:
    return Running(
        pid=os.getpid(),
        api_url=settings.http.local_url,
        sandbox_url=settings.sandbox.local_url if settings.uses_sandbox else None,
        dsn=dsn,
        children={child.role: child.pid for child in children},
        real=first_start.sent_for_real(settings),
        restarts=restarts.ended,
        restarting=restarts.role,
        failure=restarts.failure,
        operations_url=settings.operations.url(settings.http),
    )


def _stop_on_signals(children: Sequence[Child], supervised: bool) -> None:
    """On a first signal, cancel this coroutine, which stops everything in order; on a second, kill the children.

    With `supervised` the end of standard input counts as a signal: it means that the parent is gone.
    """
    loop = asyncio.get_running_loop()
    this_coroutine = asyncio.current_task(loop)
    is_stopping = False

    def stop() -> None:
        nonlocal is_stopping
        if is_stopping:
            for child in children:
                child.kill()
            return
        is_stopping = True
        say("\nStopping …")
        if this_coroutine is not None:
            this_coroutine.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)

    def on_input() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop()

    if supervised:
        loop.add_reader(0, on_input)


def _plain_event(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """A log event of this process, as a line for people."""
    name = str(event.pop("event", "")).replace("_", " ")
    return f"{name}: " + ", ".join(f"{field} {value}" for field, value in event.items() if value)
