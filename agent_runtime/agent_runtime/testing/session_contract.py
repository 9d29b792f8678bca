"""What each part of the contract of session stores stands on: a store, its clock, and calls of it."""

from abc import abstractmethod

import pytest

from agent_runtime.session_store import SessionQuota, SessionStore
from agent_runtime.testing.session_calls import SessionCalls
from agent_runtime.testing.session_samples import OWNER
from agent_runtime.types import Owner


class SessionContract:
    """What an implementation gives, and what the promises use."""

    ttl: float = 10.0

    @pytest.fixture
    @abstractmethod
    def store(self) -> SessionStore:
        """An empty store; an asynchronous fixture does as well."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Return when so many seconds have passed by the store's clock."""

    async def reopen(self, store: SessionStore) -> SessionStore:
        """Close the store and return another on the same data, as after a restart; one that keeps nothing returns itself."""
        return store

    def calls(self, store: SessionStore, owner: Owner = OWNER, session_id: str = "s") -> SessionCalls:
        return SessionCalls(store=store, ttl=self.ttl, owner=owner, session_id=session_id)

    def quota(self, *, max_sessions: int | None = None, max_sessions_per_user: int | None = None) -> SessionQuota:
        return SessionQuota(ttl=self.ttl, max_sessions=max_sessions, max_sessions_per_user=max_sessions_per_user)
