from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.api import Api, running


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as api:
        yield api
