"""The world outside: what was done to it and what was promised to it, in one order that no crash can change."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent_runtime import LeaseToken, Owner, Refusal, SessionStore, StoredLease
from agent_runtime.journal_items import ToolEnded, ToolIntended, decode_entry


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened.

    Attributes:
        what: `start` and `effect` of a tool call, `acquired`, `acknowledged`, `finished`, `loaded` and `refused` of the
            store, `decided` of a call in doubt, `ended` of an execution.
        keys: The tool calls that it is about, by idempotency key.
    """

    what: str
    at: float
    pid: int
    session: str = ""
    run: str = ""
    number: int = 0
    fence: int = 0
    digests: list[str] = []
    keys: list[str] = []
    tool: str = ""
    text: str = ""
    asked: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Line).decode


class Witness:
    """A file that any number of processes append to, a line at once: its order is the order in which things happened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def say(self, what: str, *, durable: bool = False, **fields: Any) -> None:
        """Add a line; `durable` has it on the disk on return, as an effect in the real world would be."""
        line = Line(what=what, at=time.time(), pid=os.getpid(), **fields)
        os.write(self._file, msgspec.json.encode(line) + b"\n")
        if durable:
            os.fsync(self._file)

    def lines(self, session: str = "") -> list[Line]:
        """All lines, or those of one session, in order."""
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")  # another process may be in the middle of a line
        found = (_decode(line) for line in whole.splitlines())
        return [line for line in found if session in ("", line.session)]

    def close(self) -> None:
        os.close(self._file)


class WitnessedStore:
    """A store that tells the witness what it has acknowledged and refused, after it has done so."""

    def __init__(self, store: SessionStore, witness: Witness, acquired: Callable[[], object] = lambda: None) -> None:
        self._store = store
        self._witness = witness
        self._acquired = acquired

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        told = _TOLD.get(name)
        if told is None:
            return operation

        async def call(owner: Owner, session_id: str, *args: Any, **options: Any) -> object:
            answer = await operation(owner, session_id, *args, **options)
            line = told(args, options, answer)
            self._witness.say(session=session_id, **line)
            if line["what"] == "acquired":
                self._acquired()
            return answer

        return call


def digest(entry: bytes) -> str:
    return hashlib.sha256(entry).hexdigest()[:16]


def entry_fields(entry: bytes) -> dict[str, Any]:
    """What an entry says about tool calls: those that ended, and in `text` those that were only intended."""
    items = decode_entry(entry, "an entry")
    ended = [item.key for item in items if isinstance(item, ToolEnded)]
    intended = [item.key for item in items if isinstance(item, ToolIntended)]
    return {"digests": [digest(entry)], "keys": ended, "text": " ".join(intended)}


def _told_acquire(args: tuple[Any, ...], options: Mapping[str, Any], answer: object) -> dict[str, Any]:
    if not isinstance(answer, StoredLease):
        return {"what": "refused", "text": f"acquire {answer}"}
    told: dict[str, Any] = {"what": "acquired", "run": args[0], "fence": answer.token.fence}
    entry = options.get("entry")
    return told if entry is None else told | {"number": 1} | entry_fields(entry)


def _told_record(args: tuple[Any, ...], options: Mapping[str, Any], answer: object) -> dict[str, Any]:
    run, number, entry = args
    fence = _fence(options)
    if isinstance(answer, Refusal):
        return {"what": "refused", "run": run, "number": number, "fence": fence, "text": f"record {answer}"}
    return {"what": "acknowledged", "run": run, "number": number, "fence": fence, **entry_fields(entry)}


def _told_finish(args: tuple[Any, ...], options: Mapping[str, Any], answer: object) -> dict[str, Any]:
    what = "refused" if isinstance(answer, Refusal) else "finished"
    return {"what": what, "run": args[0], "fence": _fence(options), "text": f"finish {answer}"}


def _told_renew(args: tuple[Any, ...], options: Mapping[str, Any], answer: object) -> dict[str, Any]:
    what = "refused" if isinstance(answer, Refusal) else "renewed"
    return {"what": what, "fence": args[0].fence, "text": "renew"}


def _told_release(args: tuple[Any, ...], options: Mapping[str, Any], answer: object) -> dict[str, Any]:
    return {"what": "released" if answer else "refused", "fence": args[0].fence, "text": "release"}


def _told_entries(args: tuple[Any, ...], options: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    return {"what": "loaded", "run": args[0], "digests": [digest(entry) for entry in answer]}


def _fence(options: Mapping[str, Any]) -> int:
    lease: LeaseToken = options["lease"]
    return lease.fence


_TOLD: Mapping[str, Callable[[tuple[Any, ...], Mapping[str, Any], object], dict[str, Any]]] = {
    "acquire": _told_acquire,
    "record": _told_record,
    "finish": _told_finish,
    "renew": _told_renew,
    "release": _told_release,
    "entries": _told_entries,
}
