"""A worker that writes to many sessions, one whole step after the other, and is killed: each step is there or it is not."""

import random
from multiprocessing.connection import Connection
from pathlib import Path

import anyio
import msgspec
from tests.faults.places import STORES
from tests.faults.witness import Witness
from tests.faults.worker import ACQUIRED, ENDED, STARTED, alone

from agent_runtime import (
    MemorySessionStore,
    Message,
    MessageBatch,
    Owner,
    SessionContent,
    SessionFields,
    SessionQuota,
    SessionStore,
    StoredCheckpoint,
)

TTL = 3600.0
QUOTA = SessionQuota(ttl=TTL)
NAMES = ("s1", "s2", "s3", "s4")
STEPS = 400


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do: the steps from `first` on, of the sequence that `seed` gives."""

    store: str
    folder: str
    seed: int
    first: int


def owner_of(seed: int) -> Owner:
    return Owner(tenant_id="keeper", user_id=str(seed))


async def step(store: SessionStore, seed: int, number: int) -> object:
    """Step `number`: the same each time it is made on the same sessions."""
    chance = random.Random(seed * 1_000_003 + number)
    owner, name, other = owner_of(seed), chance.choice(NAMES), chance.choice(NAMES)
    operation, data = f"o{number}", str(number).encode() * chance.randint(1, 300)
    fields = SessionFields(agent_id=f"a{number % 2}", data=data, closed=chance.random() < 0.05)
    batch = MessageBatch.of(
        [Message(role="user", content=f"{number}.{place}") for place in range(chance.randint(1, 5))]
    )
    session = await store.read(owner, name)
    match chance.randrange(11):
        case 0 | 1:
            point = StoredCheckpoint(checkpoint_id="c0", data=data, sequence=0, message_count=1, created_at=0.0)
            content = SessionContent(messages=batch, checkpoints=(point,)) if chance.random() < 0.5 else None
            return await store.create(owner, name, fields, QUOTA, operation=operation, content=content)
        case 2 | 3:
            return await store.append(owner, name, batch, expected=None, ttl=TTL, operation=operation)
        case 4:
            version = 0 if session is None else session.version
            return await store.write(owner, name, fields, expected=version, ttl=TTL, operation=operation)
        case 5 | 6:
            return await store.put_checkpoint(owner, name, f"c{number % 5}", data, ttl=TTL)
        case 7:
            return await store.fork(owner, name, f"c{number % 5}", other, QUOTA, operation=operation)
        case 8:
            return await store.delete(owner, name)
        case 9:
            return await store.delete_checkpoints(owner, name)
        case _:
            return await store.delete_all(owner, agent_id="a0" if chance.random() < 0.8 else None)


async def seen(store: SessionStore, seed: int) -> object:
    """All that the owner has, without times."""
    owner = owner_of(seed)
    found: list[object] = [await store.count(owner)]
    for name in NAMES:
        session = await store.read(owner, name)
        if session is not None:
            found.append((name, session.fields, session.version, session.message_count))
        found.append(list(await store.messages(owner, name) or ()))
        found.append(
            [(c.checkpoint_id, c.data, c.sequence, c.message_count) for c in await store.checkpoints(owner, name)]
        )
    return msgspec.to_builtins(found)


def keep(keeping: Keeping, told: Connection) -> None:
    """The process's main function."""
    alone()
    told.send_bytes(STARTED)
    anyio.run(_keep, keeping, told)


async def _keep(keeping: Keeping, told: Connection) -> None:
    witness = Witness(Path(keeping.folder) / f"keeper{keeping.seed}")
    async with STORES[keeping.store](Path(keeping.folder)) as store:
        told.send_bytes(ACQUIRED)
        for number in range(keeping.first, STEPS):
            await step(store, keeping.seed, number)
            witness.say("acknowledged", number=number)
    told.send_bytes(ENDED)


async def next_step(store: SessionStore, witness: Witness, seed: int) -> int | None:
    """The step to go on with, by what is in the store after a crash; `None` when it is neither as before nor as after it."""
    lines = witness.lines()
    done = lines[-1].number + 1 if lines else 0
    model = MemorySessionStore()
    for number in range(done):
        await step(model, seed, number)
    found = await seen(store, seed)
    if found == await seen(model, seed):
        return done
    await step(model, seed, done)
    return done + 1 if found == await seen(model, seed) else None
