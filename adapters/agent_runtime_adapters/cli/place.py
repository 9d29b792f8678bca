"""Where conversations are kept, whose they are, and the executor that goes on with one."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from agent_runtime import AgentContext, AgentExecutor, Owner, Secret, SessionManager
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.target import load_executor
from agent_runtime_adapters.sqlite import SQLiteSessionStore

VARIABLE = "AGENT_RUNTIME_DB"
DEFAULT_FILE = "agent-runtime.db"
DEFAULT_USER = "local"
KEPT = 90 * 86_400.0
"""Seconds that a conversation stays in a file of ours after the last word."""

Database = Annotated[
    Path | None,
    typer.Option("--db", metavar="FILE", help=f"The SQLite file. [default: {VARIABLE}, or ./{DEFAULT_FILE}]"),
]
User = Annotated[str, typer.Option("--user", metavar="NAME", help="Whose sessions.")]
KeysUser = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="Whose sessions; needed with a key. [default: local]")
]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="The user's tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def database_file(db: Path | None) -> Path:
    """The file that is meant: the option, the environment's, or the one of the current folder.

    Raises `CommandFailed` for a folder.
    """
    path = db or Path(os.environ.get(VARIABLE) or DEFAULT_FILE)
    if path.is_dir():
        raise CommandFailed(f"{path} is a folder: name a file in it with --db or {VARIABLE}")
    return path


def existing_file(db: Path | None) -> Path:
    """The file that is meant. Raises `CommandFailed` when it is not there: what only reads makes none."""
    path = database_file(db)
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        raise CommandFailed(
            f"there is no database {path}", hint=f"name it with --db or {VARIABLE}; `agent-runtime chat` makes one"
        )
    return path


def sessions_in(path: Path) -> SessionManager:
    """The sessions of a file, which is made where it is missing."""
    return SessionManager(SQLiteSessionStore(path), ttl=KEPT)


def credential(name: str) -> Secret:
    """What the environment variable `name` holds. Raises `CommandFailed` when it is not set."""
    value = os.environ.get(name)
    if not value:
        raise CommandFailed(f"--api-key-env: the environment variable {name} is not set")
    return Secret(value)


def remembering(target: str, db: Path | None, *, reads: bool = False) -> AgentExecutor:
    """The executor that `target` names; one without sessions of its own keeps them in the file.

    With `reads` the file must be there. Raises `CommandFailed`.
    """
    executor = load_executor(target)
    if executor.session_manager is not None:
        if db is not None:
            raise CommandFailed(f"--db: {target} has a session_manager, which says where its sessions are")
        return executor
    return AgentExecutor(
        executor.agent,
        agent_id=executor.agent_id,
        middleware=executor.pipeline,
        event_bus=executor.event_bus,
        session_manager=sessions_in(existing_file(db) if reads else database_file(db)),
        limits=executor.limits,
        shutdown_grace=executor.shutdown_grace,
    )


class Place:
    """One conversation: its session, its owner, and the words that name both on the command line.

    Raises `CommandFailed` for a key without the user whose it is.
    """

    def __init__(
        self,
        session_id: str,
        *,
        user: str | None,
        tenant: str | None,
        target: str | None = None,
        db: Path | None = None,
        docs: Path | None = None,
        api_key_env: str | None = None,
    ) -> None:
        if user is None and api_key_env is not None:
            raise CommandFailed(
                "--api-key-env needs --user", hint="name the key's owner; with --tenant, where it has one"
            )
        self.session_id = session_id
        self.owner = Owner(tenant_id=tenant, user_id=user or DEFAULT_USER)
        self.credential = None if api_key_env is None else credential(api_key_env)
        self.target = target
        self._options = {
            "--user": None if user == DEFAULT_USER and api_key_env is None else user,
            "--tenant": tenant,
            "--db": db,
            "--docs": docs,
            "--api-key-env": api_key_env,
        }

    def context(self, task: str = "") -> AgentContext:
        """A run in this conversation."""
        return AgentContext(
            current_task=task,
            user_id=self.owner.user_id,
            tenant_id=self.owner.tenant_id,
            session_id=self.session_id,
            credential=self.credential,
        )

    def command(self, name: str, *more: str) -> str:
        """`agent-runtime NAME` for this conversation, as it is typed."""
        session = ("--session", self.session_id) if name == "chat" else (self.session_id,)
        options = (
            word for option, value in self._options.items() if value is not None for word in (option, str(value))
        )
        target = () if self.target is None else (self.target,)
        return shlex.join(("agent-runtime", *name.split(), *target, *session, *options, *more))
