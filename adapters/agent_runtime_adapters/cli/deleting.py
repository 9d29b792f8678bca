"""`agent-runtime sessions delete`: a session, or all that is kept for a user."""

from typing import Annotated

import typer

from agent_runtime import Owner
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.kept import OpenSessions, kept, opened
from agent_runtime_adapters.cli.owned import confirm, found, missing, names, of, print_json, unfinished
from agent_runtime_adapters.cli.place import DEFAULT_USER, AnyUser, Database, Json, Tenant, Yes
from agent_runtime_adapters.cli.steps import steps
from agent_runtime_adapters.cli.terminal import notice
from agent_runtime_adapters.cli.view import at_stake


def delete(
    session_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The session. [default: all sessions of --user]")
    ] = None,
    db: Database = None,
    user: AnyUser = None,
    tenant: Tenant = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete a session, or all of a user's.

    With all that belongs to it: messages, checkpoints, unfinished runs.
    """
    place, owner = kept(db, reads=True), Owner(tenant_id=tenant, user_id=user or DEFAULT_USER)
    if session_id is None and user is None:
        raise CommandFailed("name a session, or with --user whose sessions")
    with opened(place.sessions()) as sessions:
        if session_id is None:
            count = _delete_all(sessions, owner, place.name, yes=yes)
        else:
            count = _delete_one(sessions, session_id, owner, place.name, yes=yes)
    if as_json:
        print_json({"deleted": count})
    elif session_id is None:
        done = f"deleted {count:,} sessions" if count else "no sessions"
        notice(f"{done} of user {of(owner)} in {place.name}")


def _delete_one(sessions: OpenSessions, session_id: str, owner: Owner, name: str, *, yes: bool) -> int:
    session = found(sessions, session_id, owner, name)
    if not yes:
        runs = unfinished(sessions, session_id, owner)
        stake = dict.fromkeys(what for run in runs for what in at_stake(run))
        confirm(f"Delete session {session_id} with {session.message_count:,} messages?", *stake)
    if not sessions.ask(sessions.manager.delete, session_id, owner=owner):
        raise missing(session_id, owner, name)
    return 1


def _delete_all(sessions: OpenSessions, owner: Owner, name: str, *, yes: bool) -> int:
    """How many there were. One at a time, so that it can be told how far it is, and go on where it was cut short."""
    wanted = names(sessions, owner)
    if not wanted:
        return 0
    if not yes:
        question = f"Delete all {len(wanted):,} sessions of user {of(owner)} in {name}?"
        confirm(question, *_stake(sessions, owner, wanted))
    count = 0
    with steps(len(wanted), "deleted") as step:
        for session_id in wanted:
            count += sessions.ask(sessions.manager.delete, session_id, owner=owner)
            step()
        return count + sessions.ask(sessions.manager.delete_by_user, owner=owner)  # what was made meanwhile


def _stake(sessions: OpenSessions, owner: Owner, wanted: list[str]) -> list[str]:
    runs = sum(bool(sessions.ask(sessions.manager.stored_runs, session_id, owner=owner)) for session_id in wanted)
    return [f"{runs:,} of them {'has' if runs == 1 else 'have'} unfinished runs"] if runs else []
