"""Records that somebody else has written, to have code run or a process die: `python -m tests.faults.foreign`.

Each payload comes as it is, in a valid frame, and deep inside an otherwise valid record, to every place where stored bytes
are read: each is refused with `CorruptRecord`, and nothing of it is run.
"""

import json
import marshal
import pickle
import struct
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import STORES

from agent_runtime import (
    Checkpoint,
    CorruptRecord,
    MessageBatch,
    Owner,
    Refusal,
    Session,
    SessionFields,
    SessionManager,
    SessionQuota,
    SessionStore,
    StoredLease,
)
from agent_runtime.journal_items import decode_entry
from agent_runtime.records import frame

ACCEPTED = "payloads accepted"
RAN = "payloads that had something run"
RAW = "errors that are not ours"
OWNER = Owner(tenant_id="acme", user_id="mallory")

ran: list[str] = []


def run(name: str) -> str:
    """What a payload calls when something lets it."""
    ran.append(name)
    return name


class Gadget:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return run, ("pickle",)


def _ext(code: int, data: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data))


def payloads() -> Iterator[tuple[str, bytes]]:
    """What other formats and other libraries make of objects, and what takes a decoder's time, memory or stack."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle {protocol}", pickle.dumps(Gadget(), protocol)
    yield "pickle of a global", b"c" + __name__.encode() + b"\nrun\n(S'pickle'\ntR."
    yield "marshal", marshal.dumps(compile("run('marshal')", "x", "exec"))
    yield "python", b"__import__('os').system('true')"
    for code in (0, 1, 2, 3, 4, 5, 6, 42, 127, -1, -2, -128):
        yield f"extension {code}", _ext(code, pickle.dumps(Gadget()))
    for name, value in _named_types().items():
        yield f"json {name}", json.dumps(value).encode()
        yield f"msgpack {name}", msgspec.msgpack.encode(value)
    for name, opening in {"list": b"\x91", "map": b"\x81\xa1a", "json": b"[", "json map": b'{"a":'}.items():
        for depth in (1_000, 100_000):
            yield f"{depth} deep {name}", opening * depth
    for name, head in {"array": 0xDD, "map": 0xDF, "text": 0xDB, "binary": 0xC6, "extension": 0xC9}.items():
        for size in (1 << 16, (1 << 32) - 1):
            yield f"{name} of {size}", struct.pack(">BI", head, size)
    yield "bomb", zlib.compress(b"\0" * (64 << 20))
    yield "no text", b"\xa4\xff\xfe\xfd\xfc"
    yield "half a pair", b"\xa3\xed\xa0\x80"
    yield "reserved", b"\xc1"
    yield "nothing", b""
    yield "zeros", b"\0" * 1_000
    yield "yaml", b"!!python/object/apply:os.system ['true']"
    yield "torch", b"PK\x03\x04" + b"\0" * 60


def _named_types() -> Mapping[str, Any]:
    """Objects by the name of their type, as libraries that construct them write them."""
    call = f"{__name__}.run"
    return {
        "lc": {"lc": 2, "type": "constructor", "id": call.split("."), "method": "run", "args": ["lc"]},
        "py/object": {"py/object": call, "py/reduce": [{"py/function": call}, {"py/tuple": ["jsonpickle"]}]},
        "__class__": {"__class__": call, "__init__": ["class"]},
        "type": {"type": call, "step": 0},
        "prototype": {"__proto__": {"polluted": True}, "type": "session"},
    }


def records(payload: bytes) -> Iterator[bytes]:
    """The payload as it is; in a frame; inside a map and a list in a frame; and after something valid."""
    yield payload
    yield frame(payload)
    yield frame(b"\x82\xa4type\xa7session\xa8metadata" + payload)
    yield frame(b"\x91\x83\xa4type\xa5began\xa8agent_id\xa1a\xa8metadata" + payload)
    yield frame(b"\x91\x83\xa4role\xa4user\xa7content" + payload)


Reading = Callable[[SessionStore, bytes], Awaitable[object]]


async def as_import(store: SessionStore, data: bytes) -> object:
    return await SessionManager(store).import_session(data, owner=OWNER, session_id="imported")


async def as_metadata(store: SessionStore, data: bytes) -> object:
    await _create(store, data)
    return await SessionManager(store).get("s", owner=OWNER)


async def as_checkpoint(store: SessionStore, data: bytes) -> object:
    await _create(store, frame(b"\x80"))
    await store.put_checkpoint(OWNER, "s", "c", data, ttl=60.0)
    return await SessionManager(store).latest_checkpoint("s", owner=OWNER)


async def as_entry(store: SessionStore, data: bytes) -> object:
    await _create(store, frame(b"\x80"))
    leased = await store.acquire(OWNER, "s", "r", seconds=30.0, ttl=60.0, entry=data)
    assert isinstance(leased, StoredLease)
    return await SessionManager(store).unfinished_runs("s", owner=OWNER)


async def as_messages(store: SessionStore, data: bytes) -> object:
    return MessageBatch.stored(data)


async def as_items(store: SessionStore, data: bytes) -> object:
    return decode_entry(data, "an entry")


READINGS: tuple[Reading, ...] = (as_import, as_metadata, as_checkpoint, as_entry, as_messages, as_items)


def _is_plain(value: object) -> bool:
    """Whether it is metadata or a state with nothing but JSON values in it: a type's name in it is only text."""
    kept = value.metadata if isinstance(value, Session) else value.state if isinstance(value, Checkpoint) else None
    return isinstance(kept, dict) and json.loads(json.dumps(kept)) == kept


async def _create(store: SessionStore, data: bytes) -> None:
    fields = SessionFields(agent_id="a", data=data)
    outcome = await store.create(OWNER, "s", fields, SessionQuota(ttl=60.0), operation="o")
    assert not isinstance(outcome, Refusal)


async def foreign(store: str, count: int, seed: int) -> Figure:
    """Read each payload everywhere; figure S4."""
    since = time.perf_counter()
    tally = Tally(ACCEPTED, RAN, RAW)
    tried = 0
    options = {"synchronous": "NORMAL"} if store == "sqlite" else {}
    with tempfile.TemporaryDirectory() as place:
        async with STORES[store](Path(place), **options) as opened:
            for name, payload in payloads():
                tally.saw("payloads")
                for record in records(payload):
                    for reading in READINGS:
                        tried += 1
                        await _try(opened, reading, record, f"{name}, {reading.__name__}", tally)
    return tally.figure("S4", store, tried, "hostile records", seed=None, since=since)


async def _try(store: SessionStore, reading: Reading, record: bytes, what: str, tally: Tally) -> None:
    ran.clear()
    try:
        value = await reading(store, record)
    except CorruptRecord:
        pass
    except Exception as error:  # noqa: BLE001 - that there is none is what is counted
        tally.wrong(RAW, f"{what}: {error!r}")
    else:
        if _is_plain(value):
            tally.saw("maps of text kept as the data that they are")
        else:
            tally.wrong(ACCEPTED, f"{what}: {value!r:.100}")
    if ran:
        tally.wrong(RAN, what)
    await store.delete_all(OWNER)


if __name__ == "__main__":
    main(foreign, STORES, count=1, description=__doc__)
