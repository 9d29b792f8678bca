"""A SQLite file with something in each of its stores, and all that can be read of it."""

from pathlib import Path
from typing import Any

import msgspec
from tests.corpus.samples import ITEMS, MESSAGES, VALUES

from agent_runtime import (
    MessageBatch,
    Owner,
    SessionFields,
    SessionManager,
    SessionQuota,
    StoredLease,
)
from agent_runtime.journal_items import encode_entry
from agent_runtime.records import encode_record
from agent_runtime_adapters.sqlite import (
    SQLiteDatabase,
    SQLiteEventLog,
    SQLiteKeyValueStore,
    SQLiteSessionStore,
)

WRITTEN_AT = 1_700_000_000.0
TTL = 1000 * 365 * 86_400.0
OWNERS = (Owner(tenant_id="acme", user_id="ann"), Owner(tenant_id=None, user_id="änn 💥"))


def _clock() -> float:
    return WRITTEN_AT


async def write(path: Path) -> None:
    """Write the file; the same each time."""
    async with SQLiteDatabase(path) as database:
        for owner in OWNERS:
            await _write_sessions(SQLiteSessionStore(database, clock=_clock), owner)
            values = SQLiteKeyValueStore(database, clock=_clock)
            await values.set(owner, "key", b"value \0", ttl=TTL)
            log = SQLiteEventLog(database, clock=_clock)
            await log.append(owner, "stream", (b"first", b"second"), expected=0, ttl=TTL, operation="o1")


async def _write_sessions(store: SQLiteSessionStore, owner: Owner) -> None:
    quota = SessionQuota(ttl=TTL)
    data = encode_record(VALUES)
    for name, closed in (("open", False), ("closed", True)):
        fields = SessionFields(agent_id="a", data=data)
        await store.create(owner, name, fields, quota, operation=f"create-{name}")
        for place, batch in enumerate((MESSAGES[:2], MESSAGES[2:])):
            await store.append(
                owner, name, MessageBatch.of(batch), expected=None, ttl=TTL, operation=f"append-{name}-{place}"
            )
            await store.put_checkpoint(owner, name, f"c{place}", data, ttl=TTL)
        leased = await store.acquire(owner, name, "run1", seconds=30, ttl=TTL, entry=encode_entry((ITEMS["began"],)))
        assert isinstance(leased, StoredLease)
        for number, item in enumerate(list(ITEMS.values())[1:], 2):
            await store.record(owner, name, "run1", number, encode_entry((item,)), ttl=TTL, lease=leased.token)
        await store.release(owner, name, leased.token)
        if closed:
            changed = SessionFields(agent_id="b", data=data, closed=True)
            await store.write(owner, name, changed, expected=1, ttl=TTL, operation="close")


async def read(path: Path) -> Any:
    """All that is in the file, as JSON values."""
    async with SQLiteDatabase(path) as database:
        found: list[object] = []
        for owner in OWNERS:
            found += await _read_sessions(SessionManager(SQLiteSessionStore(database, clock=_clock)), owner)
            found.append(await SQLiteKeyValueStore(database, clock=_clock).get(owner, "key"))
            found.append(await SQLiteEventLog(database, clock=_clock).read(owner, "stream"))
        return msgspec.to_builtins(found, str_keys=True)


async def _read_sessions(sessions: SessionManager, owner: Owner) -> list[object]:
    found: list[object] = [await sessions.count(owner=owner), await sessions.list_by_user(owner=owner)]
    for name in ("open", "closed"):
        found.append(await sessions.get(name, owner=owner))
        found.append(await sessions.messages(name, owner=owner))
        found.append(await sessions.messages(name, owner=owner, window=2))
        found.append(await sessions.list_checkpoints(name, owner=owner))
        found.append(await sessions.unfinished_runs(name, owner=owner))
        found.append(sorted((await sessions.journal(name, "run1", owner=owner)).calls))
    return found
