"""`agent-runtime sessions export | import`: conversations as a file, from any store into any store."""

import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO

import anyio
import typer

from agent_runtime import (
    CorruptRecord,
    Invalid,
    LimitExceeded,
    MemorySessionStore,
    NotFound,
    Owner,
    SessionConflict,
    SessionManager,
    exported_session_id,
)
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed
from agent_runtime_adapters.cli.export_file import Part, archive, new_file, parts
from agent_runtime_adapters.cli.kept import Kept, OpenSessions, kept, opened
from agent_runtime_adapters.cli.owned import document, found, names, of, print_json
from agent_runtime_adapters.cli.place import DEFAULT_USER, AnyUser, Database, Json, Tenant, User
from agent_runtime_adapters.cli.steps import steps
from agent_runtime_adapters.cli.terminal import complain, notice

_TOLD = 20  # sessions that could not be imported, each with the reason


def export(
    session_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The session. [default: all sessions of --user]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to. [default: standard output]")
    ] = None,
    db: Database = None,
    user: AnyUser = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Write a session, or all of a user's, to a file for `import`.

    With messages and checkpoints; without the owner and unfinished runs. All of a user's become a zip archive with a file
    for each.
    """
    place, owner = kept(db, reads=True), Owner(tenant_id=tenant, user_id=user or DEFAULT_USER)
    if session_id is None and user is None:
        raise CommandFailed("name a session, or with --user whose sessions")
    if output is None and sys.stdout.isatty():
        raise CommandFailed("an exported session is no text for a terminal", hint="name a file with -o, or use a pipe")
    with opened(place.sessions()) as sessions:
        if session_id is None:
            count, runs = _write_all(sessions, owner, place.name, output)
        else:
            count, runs = 1, _write_one(sessions, session_id, owner, place.name, output)
    if as_json:
        print_json({"sessions": count, "unfinished_runs": runs}, to_stderr=output is None)
        return
    if session_id is None:
        notice(f"exported {_sessions(count)} of user {of(owner)}")
    left = sum(runs.values())
    if left:
        where = "" if session_id else f" in {', '.join(sorted(runs)[:_TOLD])}{' …' if len(runs) > _TOLD else ''}"
        notice(f"{left} unfinished {'run stays' if left == 1 else 'runs stay'} behind{where}")


def import_sessions(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Another id for the session. [default: the one it had]")
    ] = None,
    db: Database = None,
    user: User = DEFAULT_USER,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Make sessions of exported ones, with the ids that they had.

    What is there already stays as it is: an import that was cut short can be done again.
    """
    place, owner = kept(db), Owner(tenant_id=tenant, user_id=user)
    with parts(file) as (each, is_archive):
        if not is_archive:
            _import_one(file, each[0].read(), session, owner, place, as_json=as_json)
            return
        if session is not None:
            raise CommandFailed(f"--session names one session, and {file} is an archive of all that a user has")
        if not each:
            raise CommandFailed(f"{file} has no sessions", code=FAILED)
        with opened(place.sessions()) as sessions:
            tally = _import_all(sessions, each, owner)
    if as_json:
        print_json({"imported": tally.imported, "there_already": tally.there, "failed": tally.failed})
    else:
        _tell(tally, owner)
    if tally.failed:
        raise typer.Exit(FAILED)


@dataclass(slots=True)
class _Tally:
    """How many sessions were imported, how many were there already, and why the others were not."""

    imported: int = 0
    there: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])


@contextmanager
def _target(output: Path | None) -> Generator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    with new_file(output) as file:
        yield file


def _write_one(sessions: OpenSessions, session_id: str, owner: Owner, name: str, output: Path | None) -> dict[str, int]:
    """Write the session; how many unfinished runs stay behind."""
    found(sessions, session_id, owner, name)
    data = sessions.ask(sessions.manager.export, session_id, owner=owner)
    runs = len(sessions.ask(sessions.manager.stored_runs, session_id, owner=owner))
    with _target(output) as file:
        file.write(data)
    return {session_id: runs} if runs else {}


def _write_all(sessions: OpenSessions, owner: Owner, name: str, output: Path | None) -> tuple[int, dict[str, int]]:
    """Write them one at a time; how many they were, and by session the unfinished runs that stay behind."""
    wanted = names(sessions, owner)
    if not wanted:
        raise CommandFailed(f"there are no sessions of user {of(owner)} in {name}", code=FAILED)
    count, left = 0, dict[str, int]()
    with (
        steps(len(wanted), "exported", left="what was written of them is not kept") as step,
        _target(output) as file,
        archive(file) as whole,
    ):
        for session_id in wanted:
            with suppress(NotFound):  # deleted, or expired, since they were listed
                data = sessions.ask(sessions.manager.export, session_id, owner=owner)
                runs = len(sessions.ask(sessions.manager.stored_runs, session_id, owner=owner))
                whole.add(session_id, data)
                count += 1
                left |= {session_id: runs} if runs else {}
            step()
    return count, left


def _import_one(file: Path, data: bytes, session_id: str | None, owner: Owner, place: Kept, *, as_json: bool) -> None:
    async def check() -> str:
        name = exported_session_id(data) if session_id is None else session_id
        await SessionManager(MemorySessionStore()).import_session(data, owner=owner, session_id=name)
        return name

    try:
        name = anyio.run(check)  # what cannot be read makes no file
    except CorruptRecord as error:
        hint = "it takes a file that `agent-runtime sessions export` wrote"
        raise CommandFailed(f"{file} cannot be imported: {error}", hint=hint, code=FAILED) from error
    with opened(place.sessions()) as sessions:
        there = sessions.ask(sessions.manager.exists, name, owner=owner)
        made = sessions.ask(sessions.manager.import_session, data, owner=owner, session_id=name)
    if there:
        notice(f"session {name} was there already")
    if as_json:
        print_json(document(made, ()))
    else:
        typer.echo(made.session_id)


def _import_all(sessions: OpenSessions, each: list[Part], owner: Owner) -> _Tally:
    known = set(names(sessions, owner))
    tally = _Tally()
    with steps(len(each), "imported") as step:
        for part in each:
            try:
                data = part.read()
                name = exported_session_id(data)
                sessions.ask(sessions.manager.import_session, data, owner=owner, session_id=name)
            except SessionConflict:
                tally.failed[part.name] = "there is a session of this id that was not made of this export"
            except (CorruptRecord, Invalid, LimitExceeded) as error:
                tally.failed[part.name] = str(error)
            else:
                tally.there += name in known
                tally.imported += name not in known
            step()
    return tally


def _tell(tally: _Tally, owner: Owner) -> None:
    for name, why in list(tally.failed.items())[:_TOLD]:
        complain(f"{name}: {why}")
    if len(tally.failed) > _TOLD:
        complain(f"{len(tally.failed) - _TOLD:,} more; --json names all")
    words = [f"imported {_sessions(tally.imported)} of user {of(owner)}"]
    words += [f"{tally.there:,} {'was' if tally.there == 1 else 'were'} there already"] if tally.there else []
    words += [f"{len(tally.failed):,} failed"] if tally.failed else []
    notice("; ".join(words))


def _sessions(count: int) -> str:
    return f"{count:,} session{'' if count == 1 else 's'}"
