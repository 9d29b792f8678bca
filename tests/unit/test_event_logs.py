"""What is the memory store's own among the promises of event logs, and what an event shows."""

import pytest

from agent_runtime import ConfigurationError, LogBounds, LoggedEvent, MemoryEventLog, Owner, Refusal

OWNER = Owner(tenant_id=None, user_id="ann")


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([], 0),
        ([1], 1),
        ([1, 1, 1], 3),
        ([1, 1, 1, 1], 3),
        ([4, 6], 2),
        ([5, 6], 1),
        ([1, 0, 10], 2),
        ([0, 10, 0], 3),
        ([9, 1, 1, 0], 3),
    ],
)
def test_the_newest_within_the_bounds_are_kept(sizes: list[int], kept: int) -> None:
    events = [bytes(size) for size in sizes]
    newest = LogBounds(max_events=3, max_bytes=10).newest(events)
    assert newest == events[len(events) - kept :]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def begin(log: MemoryEventLog, stream: str, size: int = 1, ttl: float = 60) -> int | Refusal:
    return await log.append(OWNER, stream, [bytes(size)], expected=0, ttl=ttl, operation="o")


def test_an_event_does_not_show_its_content() -> None:
    assert repr(LoggedEvent(sequence=3, data=b"secret")) == "LoggedEvent(sequence=3, 6 bytes)"


@pytest.mark.parametrize("options", [{"max_events": 0}, {"max_bytes": 0}])
def test_bounds_that_keep_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="above zero"):
        LogBounds(**options)


@pytest.mark.parametrize(("max_logs", "total_bytes"), [(0, 1 << 30), (1, (4 << 20) - 1)])
def test_a_store_without_room_for_a_log_is_refused(max_logs: int, total_bytes: int) -> None:
    with pytest.raises(ConfigurationError, match="at least one log's max_bytes"):
        MemoryEventLog(max_logs=max_logs, total_bytes=total_bytes)


async def test_the_log_that_was_written_longest_ago_makes_room() -> None:
    log = MemoryEventLog(max_logs=2)
    await begin(log, "a")
    await begin(log, "b")
    await log.append(OWNER, "a", [b"x"], expected=1, ttl=60, operation="o2")
    await begin(log, "c")
    assert [await log.read(OWNER, stream) is not None for stream in "abc"] == [True, False, True]
    assert await log.append(OWNER, "b", [b"x"], expected=1, ttl=60, operation="o2") is Refusal.MISSING


async def test_all_logs_together_are_bounded_and_the_expired_go_first() -> None:
    clock = Clock()
    log = MemoryEventLog(bounds=LogBounds(max_bytes=1_000), total_bytes=1_500, clock=clock)
    await begin(log, "long", 500)
    for n in range(250):
        await begin(log, f"short{n}", 4, ttl=1)
    clock.now += 2
    await begin(log, "new", 1_000)
    assert await log.read(OWNER, "long") is not None
    assert await log.delete_all(OWNER) == 2


async def test_what_has_expired_is_not_counted_before_anybody_has_freed_it() -> None:
    clock = Clock()
    log = MemoryEventLog(clock=clock)
    for n in range(300):
        await begin(log, f"s{n}", ttl=1)
    await begin(log, "s")
    clock.now += 2
    assert await log.delete_all(OWNER) == 1


async def test_an_expired_log_begins_again_before_anybody_has_freed_it() -> None:
    clock = Clock()
    log = MemoryEventLog(clock=clock)
    for n in range(300):
        await log.append(OWNER, f"s{n}", [b"x"] * 3, expected=0, ttl=1, operation="o")
    clock.now += 2
    for n in reversed(range(300)):
        assert await begin(log, f"s{n}") == 1
    assert await log.delete_all(OWNER) == 300


async def test_what_has_expired_takes_no_room_though_nobody_asks_for_it() -> None:
    clock = Clock()
    log = MemoryEventLog(clock=clock)
    for n in range(1_000):
        await begin(log, f"s{n}", ttl=1)
    clock.now += 2
    for _ in range(10):
        await log.read(OWNER, "s")
    assert vars(log)["_owners"] == vars(log)["_recent"] == {}
    assert vars(log)["_bytes"] == 0
