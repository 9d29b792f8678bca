"""What stores promise when calls of one connection are cancelled: nobody is given another's answer."""

from functools import partial
from typing import Self

import anyio

from agent_runtime.ids import new_id
from agent_runtime.session_store import SessionFields, SessionQuota
from agent_runtime.stores import Stores
from agent_runtime.testing.session_samples import cut, some
from agent_runtime.testing.store_calls import TTL, Call, new_owner
from agent_runtime.testing.store_contract import StoreContract, at_once
from agent_runtime.types import Owner

_CANARIES = 5  # of each store


class Canaries:
    """Things in a store that each hold their own name: who is given another's answer sees it.

    Attributes:
        calls: A read of each.
        songs: What each has to give.
    """

    def __init__(self, stores: Stores) -> None:
        self.calls: dict[str, Call] = {}
        self.songs: dict[str, object] = {}
        self._stores = stores
        self._owner = new_owner()

    @classmethod
    async def in_(cls, stores: Stores) -> Self:
        canaries = cls(stores)
        for _ in range(_CANARIES):
            name = new_id()
            await canaries._add(name)
            for kind, read in _KINDS.items():
                canaries.calls[f"{kind} {name}"] = partial(read, stores, canaries._owner, name)
                canaries.songs[f"{kind} {name}"] = name.encode()
        return canaries

    async def sing(self, *, while_cancelled: int) -> None:
        """See that all give their own after and while so many calls of others are cancelled, and afterwards."""
        names = list(self.calls)
        for turns in range(while_cancelled):
            name, other = names[turns % len(names)], names[(turns + 1) % len(names)]
            await cut(self.calls[other], turns)
            assert await self.calls[name]() == self.songs[name], name
        async with anyio.create_task_group() as group:
            for place in range(while_cancelled):
                group.start_soon(cut, self.calls[names[place % len(names)]], place * 7 % 40)
            assert await at_once(self.calls) == self.songs
        assert await at_once(self.calls) == self.songs

    async def _add(self, name: str) -> None:
        stores, owner, data = self._stores, self._owner, name.encode()
        await stores.key_values.set(owner, name, data, ttl=TTL)
        await stores.event_log.append(owner, name, [data], expected=0, ttl=TTL, operation=name)
        fields = SessionFields(agent_id="a", data=data)
        await stores.sessions.create(owner, name, fields, SessionQuota(ttl=TTL), operation=name)


async def _value(stores: Stores, owner: Owner, name: str) -> bytes:
    return some(await stores.key_values.get(owner, name)).value


async def _event(stores: Stores, owner: Owner, name: str) -> bytes:
    return some(await stores.event_log.read(owner, name)).events[0].data


async def _session(stores: Stores, owner: Owner, name: str) -> bytes:
    return some(await stores.sessions.read(owner, name)).fields.data


_KINDS = {"value": _value, "event": _event, "session": _session}


class StoreCancellation(StoreContract):
    """That a call which is cancelled takes nothing from the others."""

    async def test_no_caller_is_given_another_s_answer_when_calls_are_cancelled(self) -> None:
        async with self.opened() as stores:
            await (await Canaries.in_(stores)).sing(while_cancelled=50)
