"""CacheMiddleware over a store that fails, is slow, or has something else than what was kept."""

from typing import Any, cast

import anyio
import pytest
from tests.stores.caching import ASKED, BadStore, Scene, hangs, raises

from agent_runtime import (
    AnswerKey,
    ConfigurationError,
    CorruptRecord,
    EventBus,
    EventType,
    KeyValueStore,
    LimitExceeded,
    MemoryKeyValueStore,
    MemoryRateLimitStore,
    Message,
    OutcomeUnknown,
    Owner,
    StoreUnavailable,
    SystemEvent,
)
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.cache.entries import Entry, KeptResponse, KeptResult, sealed_entry
from agent_runtime_middleware.timeout import TimeoutMiddleware

FAILURES = {
    "unavailable": raises(StoreUnavailable("BACKEND")),
    "unknown": raises(OutcomeUnknown("BACKEND")),
    "too large": raises(LimitExceeded("BACKEND")),
    "corrupt": raises(CorruptRecord("BACKEND")),
    "silent": hangs,
}


@pytest.mark.parametrize("operation", ["get", "set"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("stage", ["model", "run"])
async def test_a_store_that_fails_makes_the_run_uncached(operation: str, failure: str, stage: Any) -> None:
    store = cast(KeyValueStore, BadStore(operation, FAILURES[failure]))
    events: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.MIDDLEWARE_FAILED, events.append)
        scene = Scene("Here.", repeat=True, store=store, bus=bus, stage=stage, timeout=0.02)
        results = [await scene.ask() for _ in range(2)]
        await bus.drain()
    assert [(result.output, result.served_by) for result in results] == [("Here.", "agent")] * 2
    assert scene.counts == {"misses": 2, "store_failures": 2}
    assert {event.error_type for event in events} == {"store"} and len(events) == 2
    assert events[0].metadata == {"middleware": "CacheMiddleware", "stage": stage, "degraded": True}


def test_what_is_no_store_is_refused_when_the_layer_is_made() -> None:
    for wrong in (MemoryRateLimitStore(), "redis://x"):
        with pytest.raises(ConfigurationError, match="is no KeyValueStore"):
            CacheMiddleware(cast(KeyValueStore, wrong))


async def test_a_bug_of_a_store_is_raised() -> None:
    scene = Scene("Here.", store=cast(KeyValueStore, BadStore("get", raises(KeyError("a bug")))))
    with pytest.raises(KeyError):
        await scene.ask()


@pytest.mark.parametrize("operation", ["get", "set"])
async def test_a_silent_store_never_takes_the_time_that_the_answer_needs(operation: str) -> None:
    store = cast(KeyValueStore, BadStore(operation, hangs))
    scene = Scene("Here.", store=store, timeout=30, outside=[TimeoutMiddleware(run=1.0)])
    result = await scene.ask()
    assert (result.output, result.success) == ("Here.", True) and scene.counts["store_failures"] == 1


@pytest.mark.parametrize("operation", ["get", "set"])
async def test_a_cancellation_while_the_store_is_asked_is_one(operation: str) -> None:
    scene = Scene("Here.", store=cast(KeyValueStore, BadStore(operation, hangs)), timeout=30)
    async with anyio.create_task_group() as group:
        group.start_soon(scene.ask)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert "store_failures" not in scene.counts and not scene.executor.runs


async def test_a_store_that_is_waited_for_gives_the_answer_again() -> None:
    async def late() -> None:
        await anyio.sleep(0.001)

    scene = Scene("Here.", store=cast(KeyValueStore, BadStore("get", late)))
    assert await scene.answers(2) == ["Here."] * 2 and scene.counts == {"misses": 1, "hits": 1}


# --- a value that is not what was kept ---

ANSWER = Message(role="assistant", content="forged")
RESPONSE = KeptResponse(lifetime=300.0, message=ANSWER, finish_reason="stop", model="m1")


class Later(Entry, frozen=True, kw_only=True, tag="response"):
    """What a later version may keep: another schema, or one field more."""

    schema: int = 2  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]  # a newer one
    message: Message = ANSWER
    finish_reason: str = "stop"
    model: str | None = None


class Wider(KeptResponse, frozen=True, kw_only=True, tag="response"):
    tone: str = "kind"


class Watched(MemoryKeyValueStore):
    """A store of which the last value is seen, and can be put in the place of another."""

    def __init__(self) -> None:
        super().__init__()
        self.key = AnswerKey(owner=Owner(tenant_id=None, user_id=""), digest="")
        self.value = b""

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        self.key, self.value = AnswerKey(owner=owner, digest=key), value
        return await super().set(owner, key, value, ttl=ttl)

    async def put(self, value: bytes) -> None:
        await super().set(self.key.owner, self.key.digest, value, ttl=300)


def sealed(entry: Entry, key: AnswerKey) -> bytes:
    found = sealed_entry(entry, key)
    assert found is not None
    return found


async def test_a_value_that_is_sealed_with_its_key_is_read() -> None:
    store = Watched()
    scene = Scene("Here.", store=store)
    await scene.ask()
    await store.put(sealed(RESPONSE, store.key))
    assert (await scene.ask()).output == "forged"  # what follows is refused for what it is, not for how it was made


@pytest.mark.parametrize(
    "entry",
    [
        Later(lifetime=300.0),
        Wider(lifetime=300.0, message=ANSWER, finish_reason="stop", model=None),
        KeptResult(lifetime=300.0, output="forged", messages=(), finish_reason=None, model=None, metadata={}),
    ],
    ids=["a later schema", "one field more", "another kind"],
)
async def test_a_value_of_another_form_is_a_miss_that_is_counted_and_written_anew(entry: Entry) -> None:
    store = Watched()
    scene = Scene("one", "two", store=store)
    await scene.ask()
    await store.put(sealed(entry, store.key))
    assert await scene.answers(2) == ["two", "two"]
    assert scene.counts == {"misses": 2, "hits": 1, "unreadable": 1}


async def test_a_value_that_is_damaged_anywhere_is_a_miss() -> None:
    store = Watched()
    scene = Scene("Here.", repeat=True, store=store)
    await scene.ask()
    whole = store.value
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    damaged += [b"", b"\x00", whole[:-1], whole[:16], whole + b"\0", whole[16:]]
    for value in damaged:
        await store.put(value)
        assert (await scene.ask()).served_by == "agent"
    assert scene.counts == {"misses": 1 + len(damaged), "unreadable": len(damaged)}


@pytest.mark.parametrize("change", [{"current_task": "Who?"}, {"user_id": "ben"}, {"tenant_id": "acme"}], ids=str)
async def test_a_value_of_another_question_or_owner_is_a_miss(change: Any) -> None:
    store = Watched()
    scene = Scene("one", "two", "three", store=store)
    await scene.ask()
    first, other = store.value, ASKED.replace(**change)
    await scene.ask(other)
    await store.put(first)
    assert (await scene.ask(other)).output == "three"
    assert scene.counts == {"misses": 3, "unreadable": 1}
