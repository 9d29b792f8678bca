"""The scenarios of sessions once more, each on every server: 48 to 55. The clock is the test's."""

import secrets
from collections.abc import AsyncGenerator

import pytest
from tests.faults.places import PLACES, SERVERS
from tests.scenarios.test_sessions_scenarios import (
    ANN,
    Clock,
    clock,
    test_s48_the_life_of_a_session,
    test_s49_a_session_expires_once_and_an_update_does_not_make_it_permanent,
    test_s50_fifty_increments_at_once_give_fifty,
    test_s51_another_user_is_answered_as_if_there_were_nothing,
    test_s53_a_full_store_says_so,
    test_s53_the_limit_per_user_holds_when_many_create_at_once,
    test_s54_checkpoints_are_listed_newest_first,
    test_s55_a_checkpoint_needs_a_session_and_its_events_are_published,
)
from tests.servers.program import running

from agent_runtime import SessionManager, SessionStore, StoreUnavailable, open_stores

__all__ = (
    "clock",
    "test_s48_the_life_of_a_session",
    "test_s49_a_session_expires_once_and_an_update_does_not_make_it_permanent",
    "test_s50_fifty_increments_at_once_give_fifty",
    "test_s51_another_user_is_answered_as_if_there_were_nothing",
    "test_s53_a_full_store_says_so",
    "test_s53_the_limit_per_user_holds_when_many_create_at_once",
    "test_s54_checkpoints_are_listed_newest_first",
    "test_s55_a_checkpoint_needs_a_session_and_its_events_are_published",
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=PLACES)
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncGenerator[SessionStore]:
    name: str = request.param
    url: str = request.getfixturevalue(f"{name}_url")
    async with open_stores(url, clock=clock, **{PLACES[name]: f"s{secrets.token_hex(8)}"}) as stores:
        yield stores.sessions


@pytest.mark.parametrize("name", SERVERS)
async def test_s52_a_server_that_is_gone_is_not_an_absent_session(name: str) -> None:
    with running(SERVERS[name]) as program:
        async with open_stores(program.url, timeout=2.0) as stores:
            sessions = SessionManager(stores.sessions)
            session = await sessions.create(owner=ANN, agent_id="a")
            program.kill()
            with pytest.raises(StoreUnavailable):
                await sessions.get(session.session_id, owner=ANN)
            with pytest.raises(StoreUnavailable):
                await sessions.create(owner=ANN, agent_id="a")
            program.start()
            found = await sessions.get(session.session_id, owner=ANN)
            assert found == session
            assert await sessions.count(owner=ANN) == 1
