"""The sandbox as a role of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidings.api import samples
from tidings.config import DEMO_KEY_FILE, Settings
from tidings.listening import NONE_HELD, Held
from tidings.sandbox import credentials as sandbox_credentials
from tidings.sandbox.server import serve as serve_sandbox


@asynccontextmanager
async def sandbox(settings: Settings, held: Held = NONE_HELD) -> AsyncIterator[str]:
    """Run the sandbox within the context; its URL."""
    place = settings.sandbox
    handle = await serve_sandbox(
        place.host,
        place.port,
        place.smtp_port,
        sandbox_credentials.load_or_create(settings.data_dir / "sandbox"),
        receipts_url=f"{settings.public_url}/v1/receipts",
        log_path=settings.data_dir / "sandbox" / "arrivals.jsonl",
        hint=samples.first_command(settings.http.local_url, settings.data_dir / DEMO_KEY_FILE),
        timeline=samples.timeline_command(settings.http.local_url, settings.data_dir / DEMO_KEY_FILE),
        held=held.sandbox,
        allowed_hosts=place.allowed_hosts,
    )
    try:
        yield handle.url
    finally:
        await handle.stop()
