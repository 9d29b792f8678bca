"""Where conversations are kept, whose they are, and the executor that goes on with one."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from agent_runtime import AgentContext, AgentExecutor, Owner, Secret
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.kept import DEFAULT_FILE, VARIABLE, kept, without_password
from agent_runtime_adapters.cli.target import load_executor

DEFAULT_USER = "local"

Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="FILE|URL",
        help=f"The SQLite file, or a store's URL. [default: {VARIABLE}, or ./{DEFAULT_FILE}]",
    ),
]
User = Annotated[str, typer.Option("--user", metavar="NAME", help="Whose sessions.")]
AnyUser = Annotated[str | None, typer.Option("--user", metavar="NAME", help="Whose sessions. [default: local]")]
KeysUser = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="Whose sessions; needed with a key. [default: local]")
]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="The user's tenant.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def credential(name: str) -> Secret:
    """What the environment variable `name` holds. Raises `CommandFailed` when it is not set."""
    value = os.environ.get(name)
    if not value:
        raise CommandFailed(f"--api-key-env: the environment variable {name} is not set")
    return Secret(value)


def remembering(target: str, db: str | None, *, reads: bool = False) -> AgentExecutor:
    """The executor that `target` names; one without sessions of its own keeps them where `kept` says.

    With `reads` a file must be there. Raises `CommandFailed`.
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
        session_manager=kept(db, reads=reads).sessions(),
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
        db: str | None = None,
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
            "--db": None if db is None else without_password(db),
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
