"""What every session store promises of time: what lives how long, and who is told when it is gone."""

import pytest

from agent_runtime.session_store import Refusal, SessionQuota, SessionStore
from agent_runtime.testing.session_calls import WRITES, Pictured, picture_of
from agent_runtime.testing.session_contract import SessionContract
from agent_runtime.testing.session_samples import OWNER, done, some, together


class SessionTime(SessionContract):
    """How long a session lives, and that nothing of it stays."""

    async def test_a_session_and_all_that_belongs_to_it_goes_when_its_time_is_up(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await self.advance(self.ttl * 1.1)
        assert await picture_of(store) == {}
        assert await s.read() is None
        assert await store.messages(OWNER, "s") is None
        assert (await s.checkpoints(), await s.runs(), await s.entries()) == ([], [], [])
        assert await store.count(OWNER) == 0
        assert await s.renew(lease) is Refusal.MISSING
        assert await s.release(lease) is False
        assert await s.delete() is False
        await s.create()
        assert await picture_of(store) == {"s": Pictured("s")}
        assert done(await s.put("c1", b"other")).sequence == 1
        assert done(await s.acquire("r", entry=b"anew")).session.holder == "r"
        assert await s.entries() == [b"anew"]

    @pytest.mark.parametrize("name", WRITES)
    async def test_a_write_prolongs_and_never_makes_permanent(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await self.advance(self.ttl * 0.7)
        assert not isinstance(await WRITES[name](s, lease), Refusal)
        session = some(await s.read())
        assert session.expires_at == pytest.approx(session.updated_at + self.ttl, abs=0.01)
        await self.advance(self.ttl * 0.7)
        assert some(await s.read()).expires_at == session.expires_at
        await self.advance(self.ttl * 0.4)
        assert await picture_of(store) == {}

    async def test_what_reads_and_what_is_refused_does_not_prolong(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        before = await s.read()
        await self.advance(self.ttl * 0.5)
        await picture_of(store)
        assert await s.write(expected=9) is Refusal.CHANGED
        assert await s.append() is Refusal.HELD
        assert await s.append(expected=9, lease=lease) is Refusal.CHANGED
        assert await s.put("c1", b"other") is Refusal.EXISTS
        assert done(await s.put("c1", b"1")).sequence == 1
        assert await s.acquire("other") is Refusal.HELD
        assert await s.record(9, b"", lease=lease) is Refusal.CHANGED
        assert await s.record(2, b"second", lease=lease) == 2
        assert await s.discard_run() is Refusal.HELD
        assert await store.delete_checkpoints(OWNER, "s", checkpoint_id="c9") == 0
        assert await s.read() == before

    async def test_a_shorter_life_given_by_a_later_write_holds(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create(quota=SessionQuota(ttl=self.ttl * 100))
        await s.append()
        await self.advance(self.ttl * 1.1)
        assert await picture_of(store) == {}

    async def test_an_expired_session_is_told_of_once(self, store: SessionStore) -> None:
        for name in ("a", "b"):
            await self.calls(store, session_id=name).create()
        await self.calls(store, session_id="c").create(quota=SessionQuota(ttl=self.ttl * 100))
        assert not await store.expire()
        await self.advance(self.ttl * 1.1)
        told = [item for items in await together(10, lambda n: store.expire()) for item in items]
        assert sorted((item.owner, item.session_id, item.agent_id) for item in told) == [
            (OWNER, "a", "support"),
            (OWNER, "b", "support"),
        ]
        assert await store.count(OWNER) == 1

    async def test_a_thousand_expired_sessions_are_told_of_at_once(self, store: SessionStore) -> None:
        for n in range(1_001):
            await self.calls(store, session_id=f"s{n}").create(quota=SessionQuota(ttl=self.ttl * 10))
        await self.advance(self.ttl * 10.1)
        assert [len(await store.expire()) for _ in range(3)] == [1_000, 1, 0]

    async def test_an_expired_session_takes_no_room(self, store: SessionStore) -> None:
        quota = self.quota(max_sessions=1)
        await self.calls(store, session_id="a").create(quota=quota)
        b = self.calls(store, session_id="b")
        assert await b.create(quota=quota) is Refusal.FULL
        await self.advance(self.ttl * 1.1)
        assert not isinstance(await b.create(quota=quota), Refusal)
