from __future__ import annotations

from pathlib import Path

import pytest

from support.flow import Flow


@pytest.fixture
async def flow(tmp_path: Path) -> Flow:
    return await Flow(tmp_path).start()
