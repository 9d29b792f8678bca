"""The SQLite session store against plain lists, closed and opened again between any two steps."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.machines.session_machine import WaitingStoreMachine

from agent_runtime import SessionStore
from agent_runtime_adapters.sqlite import SQLiteSessionStore


class SQLiteSessionsMachine(WaitingStoreMachine):
    def open(self) -> SessionStore:
        self.folder = Path(self.stack.enter_context(TemporaryDirectory()))
        return self.opened()

    def reopen(self) -> SessionStore:
        self.close()
        return self.opened()

    def teardown(self) -> None:
        self.close()
        super().teardown()

    def opened(self) -> SessionStore:
        self.sqlite = SQLiteSessionStore(self.folder / "sessions.db", clock=lambda: self.now, synchronous="NORMAL")
        return self.sqlite

    def close(self) -> None:
        self.call(self.sqlite.aclose())


TestSQLiteSessions = SQLiteSessionsMachine.TestCase
