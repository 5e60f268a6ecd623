"""What the dead letters' index promises: it is the one that is used, and it names the states that it means."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from tidings.backends.postgres.letters import _SQL
from tidings.backends.postgres.statements import FOLDER
from tidings.policy.letters import ON_REQUEST
from tidings.policy.transitions import STATES_PER_ATTEMPT, code

CONDITION = f"rank % {STATES_PER_ATTEMPT} IN ({', '.join(str(number) for number in sorted(map(code, ON_REQUEST)))})"


def test_the_condition_names_the_states_of_a_letter() -> None:
    assert f"WHERE {CONDITION}" in _SQL["find"]
    assert f"WHERE {CONDITION};" in (FOLDER.parent / "schema.sql").read_text()  # type: ignore[attr-defined]


async def test_they_are_found_through_their_index_alone(postgres_dsn: str) -> None:
    nothing = [None] * 4
    connection = await asyncpg.connect(postgres_dsn)
    try:
        plan = await connection.fetch(
            f"EXPLAIN {_SQL['find']}", "shop", UUID(int=0), UUID(int=1 << 127), 1000, [8, 9], 1, 255, *nothing
        )
    finally:
        await connection.close()
    lines = [row[0] for row in plan]
    assert any("event_default_id_rank_step_idx" in line for line in lines), lines
    assert not any("Seq Scan" in line for line in lines), lines
