"""CacheMiddleware with claims: processes that share a store ask once. Two layers on one store stand for two processes."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import pytest
from tests.stores.caching import ASKED, BadStore, Scene, hangs, raises
from tests.stores.limiting import Clock
from tests.stores.waited import waited

from agent_runtime import (
    AgentResult,
    ConfigurationError,
    KeyValueStore,
    MemoryKeyValueStore,
    ProviderUnavailable,
    StoreUnavailable,
)
from agent_runtime.testing import ScriptedReply, Trial, cancellations, inject
from agent_runtime_middleware.cache import CacheMiddleware

SLOW = ScriptedReply(text="Here.", delay=0.03)


def two(*script: Any, store: KeyValueStore | None = None, **options: Any) -> tuple[Scene, Scene]:
    """Two processes that share a store."""
    shared = waited(MemoryKeyValueStore()) if store is None else store
    given: dict[str, Any] = {"claim": 5.0, "repeat": True, **options}
    return Scene(*script, store=shared, **given), Scene(*script, store=shared, **given)


async def all_of(*calls: Callable[[], Awaitable[AgentResult]]) -> list[AgentResult]:
    results: dict[int, AgentResult] = {}

    async def one(place: int, call: Callable[[], Awaitable[AgentResult]]) -> None:
        results[place] = await call()

    async with anyio.create_task_group() as group:
        for place, call in enumerate(calls):
            group.start_soon(one, place, call)
    return [results[place] for place in range(len(calls))]


def calls_of(*scenes: Scene) -> int:
    return sum(len(scene.client.requests) for scene in scenes)


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_s37_callers_of_two_processes_share_one_call(stage: str) -> None:
    scenes = two(SLOW, stage=stage)
    results = await all_of(*(scene.ask for scene in scenes for _ in range(100)))
    assert {result.output for result in results} == {"Here."}
    assert calls_of(*scenes) == 1
    counts = [scene.cache.stats for scene in scenes]
    assert sum(stats.misses for stats in counts) == 1
    assert sum(stats.shared for stats in counts) + sum(stats.hits for stats in counts) == 199


async def test_without_a_claim_each_process_asks_for_itself() -> None:
    scenes = two(SLOW, claim=0.0)
    await all_of(*(scene.ask for scene in scenes))
    assert calls_of(*scenes) == 2


async def test_what_was_kept_since_is_found_and_not_asked_for_again() -> None:
    """One that misses, and claims only after another has asked, kept and given back."""
    store = MemoryKeyValueStore()
    first, second = two("Here.", store=waited(store))
    looked = anyio.Event()

    class Late:
        def __getattr__(self, name: str) -> Any:
            async def call(*args: Any, **options: Any) -> Any:
                if name == "add":
                    looked.set()
                    await first.ask()
                return await getattr(store, name)(*args, **options)

            return call

    late = Scene("Here.", store=cast(KeyValueStore, Late()), claim=5.0, repeat=True)
    assert (await late.ask()).served_by == "cache"
    assert looked.is_set()
    assert calls_of(first, second, late) == 1


@pytest.mark.parametrize(
    "reply",
    [
        ScriptedReply(chunks=(ProviderUnavailable("down"),), delay=0.03),
        ScriptedReply(text="Cut", finish_reason="length", delay=0.03),
    ],
)
async def test_where_the_other_process_got_nothing_to_keep_one_asks_itself(reply: ScriptedReply) -> None:
    first, second = two(reply)
    results = await all_of(first.ask, second.ask)
    assert calls_of(first, second) == 2
    assert results[0].output == results[1].output


@pytest.mark.parametrize(("theirs", "ours"), [(0.05, 5.0), (60.0, 0.05)])
async def test_nobody_waits_longer_than_the_claim_of_a_process_that_was_killed_or_than_its_own(
    theirs: float, ours: float
) -> None:
    store = MemoryKeyValueStore()
    scene = Scene("Here.", store=waited(store), claim=ours)
    for key in await keys_claimed():  # and nobody gives it back
        await store.add(ASKED.owner, key, b"", ttl=theirs, operation="killed")
    begun = anyio.current_time()
    assert (await scene.ask()).output == "Here."
    assert 0.04 < anyio.current_time() - begun < 1


async def keys_claimed() -> set[str]:
    """The keys that a caller of this question claims."""
    found: set[str] = set()

    class Noting:
        def __getattr__(self, name: str) -> Any:
            async def call(owner: Any, key: str, *args: Any, **options: Any) -> Any:
                if name == "add":
                    found.add(key)
                return await getattr(MemoryKeyValueStore(), name)(owner, key, *args, **options)

            return call

    await Scene("Here.", store=cast(KeyValueStore, Noting()), claim=5.0).ask()
    return found


def two_later(old: str, new: ScriptedReply) -> tuple[Scene, Scene, Callable[[], None]]:
    """Two processes, of which the first is asked before the other, and what makes eleven seconds pass: answers are old then."""
    clock = Clock()
    store = waited(MemoryKeyValueStore(clock=clock))
    first = Scene(old, new, store=store, claim=5.0, ttl=10.0, stale=60.0)
    second = Scene(new, store=store, claim=5.0, ttl=10.0, stale=60.0)

    def later() -> None:
        for each in (clock, first.clock, second.clock):
            each.now += 11

    return first, second, later


async def test_who_has_an_old_answer_does_not_wait_for_the_new_one() -> None:
    first, second, later = two_later("Old.", ScriptedReply(text="New.", delay=0.05))
    await first.ask()
    later()
    results = await all_of(first.ask, second.ask)
    assert sorted(result.output for result in results) == ["New.", "Old."]
    assert calls_of(first, second) == 2
    assert first.cache.stats.stale_hits + second.cache.stats.stale_hits == 1


async def test_one_that_asks_anew_is_not_given_the_old_answer() -> None:
    first, second, later = two_later("Old.", ScriptedReply(text="New."))
    await first.ask()
    later()
    assert (await first.ask()).output == "New."
    assert second.counts == {}


@pytest.mark.parametrize("operation", ["add", "delete"])
@pytest.mark.parametrize("acts", [raises(StoreUnavailable("BACKEND")), hangs])
async def test_a_store_that_fails_over_a_claim_makes_no_run_fail(operation: str, acts: Callable[[], Any]) -> None:
    scene = Scene("Here.", store=cast(KeyValueStore, BadStore(operation, acts)), claim=5.0, timeout=0.02)
    assert (await scene.ask()).output == "Here."
    assert scene.counts == {"misses": 1, "store_failures": 1}


async def test_a_caller_that_is_cancelled_at_any_await_leaves_no_claim() -> None:
    async def look(trial: Trial) -> None:
        with anyio.fail_after(1):
            assert (await others[-1].ask()).output == "Here."
        scenes.append(two("Here.", claim=60.0))
        others.append(scenes[-1][1])

    scenes = [two("Here.", claim=60.0)]
    others = [scenes[0][1]]
    for fault in cancellations():
        await inject(lambda: scenes[-1][0].ask(), look, fault=fault)


@pytest.mark.parametrize("claim", [-1.0, float("inf"), float("nan")])
def test_a_claim_is_seconds(claim: float) -> None:
    with pytest.raises(ConfigurationError, match="seconds, from 0 and finite"):
        CacheMiddleware(claim=claim)
