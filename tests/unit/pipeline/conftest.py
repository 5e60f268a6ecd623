from __future__ import annotations

import pytest

from support.flow import Flow


@pytest.fixture
def users_are_looked_up(flow: Flow) -> None:
    """Requests for unknown users are refused, as the API refuses them."""
    flow.look_users_up()
