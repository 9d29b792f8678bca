"""Many jobs in one commit, none of which can spoil another's."""

import sqlite3
import time
from collections.abc import Callable

from agent_runtime_adapters.sqlite.connection import DatabaseFile
from agent_runtime_adapters.sqlite.failures import is_busy, is_lasting, not_committed, translated
from agent_runtime_adapters.sqlite.thread import AnyJob, hand_over


class Transactions:
    """The worker of a database's thread: opens the connection when it is needed, and another one when it has failed.

    The reads come first: they need not wait for the disk, and see one moment before the writes. The writes are one
    transaction with a savepoint for each, and are handed over when all of them are committed.
    """

    def __init__(self, file: DatabaseFile, busy_timeout: float) -> None:
        self._file = file
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None

    def work(self, jobs: list[AnyJob]) -> list[AnyJob]:
        """Do and hand over all but those that a lock of another process keeps waiting."""
        waiting = self._do([job for job in jobs if not job.writes], self._read)
        return waiting + self._do([job for job in jobs if job.writes], self._write)

    def close(self) -> None:
        """Let go of the connection. What is not committed is undone."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _do(self, jobs: list[AnyJob], work: Callable[[list[AnyJob]], None]) -> list[AnyJob]:
        wanted = [job for job in jobs if not job.dropped]
        if not wanted:
            return []
        _try(wanted, work)
        settled: list[AnyJob] = []
        waiting: list[AnyJob] = []
        for job in wanted:
            (settled if self._is_settled(job) else waiting).append(job)
        hand_over(settled)
        return waiting

    def _read(self, jobs: list[AnyJob]) -> None:
        connection = self._begun("BEGIN")
        for job in jobs:
            _attempt(connection, job)
        connection.execute("COMMIT")

    def _write(self, jobs: list[AnyJob]) -> None:
        connection = self._begun("BEGIN IMMEDIATE")
        if len(jobs) == 1:
            _attempt(connection, jobs[0])
        elif not _attempt_each(connection, jobs):
            for job in jobs:
                _try([job], self._write)
            return
        if len(jobs) == 1 and jobs[0].error is not None:
            _roll_back(connection)
        else:
            self._commit(connection, jobs)

    def _commit(self, connection: sqlite3.Connection, jobs: list[AnyJob]) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.close()
            for job in jobs:
                job.error = job.error or not_committed(error, self._file.name)

    def _begun(self, begin: str) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._file.connect()
        self._file.check()
        self._connection.execute(begin)
        return self._connection

    def _is_settled(self, job: AnyJob) -> bool:
        """Whether it is done or failed, with an error of ours; otherwise it waits for a lock, and has the time to."""
        if job.error is None:
            return True
        if is_busy(job.error):
            now = time.monotonic()
            if job.give_up_at is None:
                job.give_up_at = now + self._busy_timeout
            if now < job.give_up_at:
                return False
        elif is_lasting(job.error):
            self.close()
        job.error = translated(job.error, self._file.name, self._busy_timeout)
        return True


def _try(jobs: list[AnyJob], work: Callable[[list[AnyJob]], None]) -> None:
    """`work(jobs)`; where it raises, none of them is done."""
    try:
        work(jobs)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is for those who wait
        for job in jobs:
            job.error = error


def _attempt(connection: sqlite3.Connection, job: AnyJob) -> None:
    if job.dropped:
        return
    try:
        job.error = None
        job.answer = job.function(connection)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
        job.error = error


def _attempt_each(connection: sqlite3.Connection, jobs: list[AnyJob]) -> bool:
    """Undo what fails, and only that; false where SQLite has undone all of it, as it may when there is no room."""
    for job in jobs:
        connection.execute("SAVEPOINT job")
        _attempt(connection, job)
        if not connection.in_transaction:
            return False
        if job.error is not None:
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
    return True


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
