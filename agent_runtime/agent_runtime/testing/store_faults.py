"""Cancellation of a store's operation, at each moment: it is done as a whole or not at all."""

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias, cast

from agent_runtime.ids import new_id
from agent_runtime.store_server import ServerStore, StoreServer
from agent_runtime.testing.injection import Outcome, Trial, cancellations, inject
from agent_runtime.testing.session_samples import cut, later
from agent_runtime.types import Owner

Call: TypeAlias = Callable[[Owner], Coroutine[Any, Any, object]]
Look: TypeAlias = Callable[[Owner], Awaitable[object]]


async def whole_or_not_at_all(furnish: Call, call: Call, look: Look, *, again: bool) -> None:
    """Cancel the call at each await, and after each number of turns of the event loop, for a new owner each time.

    What is seen then is as before or as after. With `again` the call is repeated, and then all is as after.
    """
    before, after = await _before_and_after(furnish, call, look)
    assert before != after

    async def check(owner: Owner, *, finished: bool) -> None:
        assert await look(owner) in ([after] if finished else [before, after])
        if again:
            await call(owner)
            assert await look(owner) == after

    await _at_each_await(furnish, call, check)
    await _after_each_turn(furnish, call, check)


async def settled(store: object) -> None:
    """Return when what cancelled callers left going on has ended, as calls of a `ServerStore` do."""
    if isinstance(store, ServerStore):
        await cast("ServerStore[StoreServer[Any]]", store).server.settled()


async def _before_and_after(furnish: Call, call: Call, look: Look) -> tuple[object, object]:
    owner = _new_owner()
    await furnish(owner)
    before = await look(owner)
    await call(owner)
    return before, await look(owner)


async def _at_each_await(furnish: Call, call: Call, check: Callable[..., Awaitable[None]]) -> None:
    owner = _new_owner()

    async def checked(trial: Trial) -> None:
        nonlocal owner
        assert trial.outcome in (Outcome.DONE, Outcome.CANCELLED), trial
        await check(owner, finished=trial.outcome is Outcome.DONE)
        owner = _new_owner()
        await furnish(owner)

    await furnish(owner)
    for fault in cancellations():
        await inject(lambda: call(owner), checked, fault=fault)


async def _after_each_turn(furnish: Call, call: Call, check: Callable[..., Awaitable[None]]) -> None:
    turns, finished = 0, False
    while not finished:
        owner = _new_owner()
        await furnish(owner)
        finished = await cut(partial(call, owner), turns)
        await check(owner, finished=finished)
        turns = later(turns)


def _new_owner() -> Owner:
    return Owner(tenant_id=None, user_id=new_id())
