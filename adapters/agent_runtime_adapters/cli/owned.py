"""What the commands about sessions share: a user's session is found, printed, and asked about."""

from typing import Any

import msgspec
import typer

from agent_runtime import NotFound, Owner, Session, UnfinishedRun
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed
from agent_runtime_adapters.cli.kept import OpenSessions
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.terminal import notice


def of(owner: Owner) -> str:
    """Whose it is, in words."""
    return repr(owner.user_id) + (f" of tenant {owner.tenant_id!r}" if owner.tenant_id is not None else "")


def missing(session_id: str, owner: Owner, name: str) -> NotFound:
    """The error for a session that is not in the store of this name."""
    return NotFound(f"there is no session {session_id!r} of user {of(owner)} in {name}")


def found(sessions: OpenSessions, session_id: str, owner: Owner, name: str) -> Session:
    """The session. Raises `NotFound`."""
    session = sessions.ask(sessions.manager.get, session_id, owner=owner)
    if session is None:
        raise missing(session_id, owner, name)
    return session


def unfinished(sessions: OpenSessions, session_id: str, owner: Owner) -> tuple[UnfinishedRun, ...]:
    """The session's runs that can be resumed, the newest first."""
    return sessions.ask(sessions.manager.unfinished_runs, session_id, owner=owner)


def names(sessions: OpenSessions, owner: Owner) -> list[str]:
    """The ids of all sessions of the user."""
    return [session.session_id for session in sessions.ask(sessions.manager.list_by_user, owner=owner)]


def document(session: Session, runs: tuple[UnfinishedRun, ...]) -> dict[str, Any]:
    """A session for machines."""
    return {**msgspec.to_builtins(session), "unfinished_runs": msgspec.to_builtins(runs)}


def print_json(values: dict[str, Any], *, to_stderr: bool = False) -> None:
    """Print one JSON document."""
    typer.echo(msgspec.json.encode(values).decode(), err=to_stderr)


def confirm(question: str, *remarks: str) -> None:
    """Have a person say yes. Raises `CommandFailed` where nobody is there, `typer.Exit` for a no."""
    lines = Lines()
    if not lines.typed:
        raise CommandFailed("nobody is there to be asked", hint="--yes does it without asking")
    for remark in remarks:
        notice(remark)
    if (lines.next(f"{question} [y/N] ") or "").strip().lower() not in ("y", "yes"):
        notice("nothing was changed")
        raise typer.Exit(FAILED)
