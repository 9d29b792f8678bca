"""`agent-runtime sessions`: the conversations in a SQLite file."""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import msgspec
import typer

from agent_runtime import MemorySessionStore, NotFound, Owner, Session, SessionManager, UnfinishedRun
from agent_runtime_adapters.cli.exits import EXIT_CODES, FAILED, CommandFailed
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.place import (
    DEFAULT_USER,
    Database,
    Json,
    Place,
    Tenant,
    User,
    database_file,
    existing_file,
    sessions_in,
)
from agent_runtime_adapters.cli.terminal import console, notice
from agent_runtime_adapters.cli.view import (
    ago,
    at_stake,
    facts,
    messages,
    session_facts,
    state,
    table,
    unfinished_facts,
)

T = TypeVar("T")
Name = Annotated[str, typer.Argument(metavar="ID", help="The session.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

sessions = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help=f"List, show, move and delete conversations.\n\n{EXIT_CODES}",
)


@sessions.command("list")
def list_sessions(
    db: Database = None,
    user: User = DEFAULT_USER,
    tenant: Tenant = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="How many, the latest written first.")] = 20,
    as_json: Json = False,
) -> None:
    """List a user's sessions, the latest first."""
    path, owner = existing_file(db), Owner(tenant_id=tenant, user_id=user)

    async def read(manager: SessionManager) -> tuple[int, list[tuple[Session, tuple[UnfinishedRun, ...]]]]:
        found = sorted(await manager.list_by_user(owner=owner), key=lambda session: session.updated_at, reverse=True)
        return len(found), [
            (item, await manager.unfinished_runs(item.session_id, owner=owner)) for item in found[:last]
        ]

    total, found = _with(path, read)
    if as_json:
        _print_json({"total": total, "sessions": [_document(*item) for item in found]})
        return
    if not found:
        notice(f"no sessions of user {_of(owner)} in {path}")
        return
    rows = [
        (item.session_id, item.agent_id, f"{item.message_count:,}", ago(item.updated_at), _remark(item, runs))
        for item, runs in found
    ]
    table([("SESSION", "AGENT", "MESSAGES", "LAST WRITE", "STATUS"), *rows], console())
    if total > len(found):
        notice(f"{total - len(found):,} more; --last {total} lists all")


@sessions.command()
def show(
    session_id: Name,
    db: Database = None,
    user: User = DEFAULT_USER,
    tenant: Tenant = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=0, help="How many messages, from the end.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All messages, and each as a whole.")] = False,
    as_json: Json = False,
) -> None:
    """Show a session: its messages, and its unfinished runs."""
    path, owner = existing_file(db), Owner(tenant_id=tenant, user_id=user)

    async def read(manager: SessionManager) -> tuple[Session, tuple[UnfinishedRun, ...], tuple[Any, ...]]:
        session = await _session(manager, session_id, owner, path)
        runs = await manager.unfinished_runs(session_id, owner=owner)
        return session, runs, await manager.messages(session_id, owner=owner, window=None if everything else last)

    session, runs, conversation = _with(path, read)
    if as_json:
        _print_json({**_document(session, runs), "messages": conversation})
        return
    out = console()
    facts(out, session_facts(session))
    if session.metadata:
        facts(out, [("metadata", msgspec.json.encode(session.metadata).decode())])
    place = Place(session_id, user=user, tenant=tenant, target="MODULE:ATTRIBUTE", db=db)
    for run in runs:
        out.print()
        facts(out, unfinished_facts(run, place.command("resume", "--run", run.run_id)))
    if conversation:
        out.print()
    before = session.message_count - len(conversation)
    if before > 0 and conversation:
        facts(out, [("", f"({before:,} messages before; --all shows them)")])
    messages(out, conversation, whole=everything)


@sessions.command()
def export(
    session_id: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to. [default: standard output]")
    ] = None,
    db: Database = None,
    user: User = DEFAULT_USER,
    tenant: Tenant = None,
) -> None:
    """Write a session to a file, for `import`.

    With its messages and checkpoints; without its owner and its unfinished runs.
    """
    path, owner = existing_file(db), Owner(tenant_id=tenant, user_id=user)
    if output is None and sys.stdout.isatty():
        raise CommandFailed("an exported session is no text for a terminal", hint="name a file with -o, or use a pipe")

    async def read(manager: SessionManager) -> tuple[bytes, int]:
        await _session(manager, session_id, owner, path)
        runs = await manager.unfinished_runs(session_id, owner=owner)
        return await manager.export(session_id, owner=owner), len(runs)

    data, left = _with(path, read)
    if output is None:
        sys.stdout.buffer.write(data)
    else:
        _write_new(output, data)
    if left:
        notice(f"{left} unfinished {'run stays' if left == 1 else 'runs stay'} behind")


@sessions.command("import")
def import_session(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The new session's id. [default: a new one]")
    ] = None,
    db: Database = None,
    user: User = DEFAULT_USER,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Make a session of an exported one."""
    path, owner = database_file(db), Owner(tenant_id=tenant, user_id=user)
    if not file.is_file():
        raise CommandFailed(f"{file} is not a file" if file.exists() else f"there is no file {file}")
    data = file.read_bytes()

    async def read(manager: SessionManager) -> Session:
        async with manager:
            return await manager.import_session(data, owner=owner, session_id=session)

    anyio.run(read, SessionManager(MemorySessionStore()))  # what cannot be read makes no file
    made = anyio.run(read, sessions_in(path))
    if as_json:
        _print_json(_document(made, ()))
    else:
        typer.echo(made.session_id)


@sessions.command()
def delete(
    session_id: Name, db: Database = None, user: User = DEFAULT_USER, tenant: Tenant = None, yes: Yes = False
) -> None:
    """Delete a session with all that belongs to it."""
    path, owner = existing_file(db), Owner(tenant_id=tenant, user_id=user)

    async def read(manager: SessionManager) -> tuple[Session, tuple[UnfinishedRun, ...]]:
        found = await _session(manager, session_id, owner, path)
        return found, await manager.unfinished_runs(session_id, owner=owner)

    session, runs = _with(path, read)
    stake = dict.fromkeys(what for run in runs for what in at_stake(run))
    _confirm(f"Delete session {session_id} with {session.message_count:,} messages?", yes, *stake)
    if not _with(path, lambda manager: manager.delete(session_id, owner=owner)):
        raise _missing(session_id, owner, path)


@sessions.command()
def discard(
    session_id: Name,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The unfinished run, as `show` names it.")],
    db: Database = None,
    user: User = DEFAULT_USER,
    tenant: Tenant = None,
    yes: Yes = False,
) -> None:
    """Give up an unfinished run: it cannot be resumed then."""
    path, owner = existing_file(db), Owner(tenant_id=tenant, user_id=user)
    runs = _with(path, lambda manager: manager.unfinished_runs(session_id, owner=owner))
    run = next((run for run in runs if run_id in (run.run_id, run.last_run_id)), None)
    if run is None:
        raise NotFound(f"session {session_id!r} of user {_of(owner)} has no unfinished run {run_id!r}")
    _confirm(f"Give up the run {run.run_id}, which {state(run)}?", yes)
    _with(path, lambda manager: manager.discard_run(session_id, run.run_id, owner=owner))


def _with(path: Path, function: Callable[[SessionManager], Awaitable[T]]) -> T:
    """What `function` makes of the sessions in the file."""

    async def opened() -> T:
        async with sessions_in(path) as manager:
            return await function(manager)

    return anyio.run(opened)


async def _session(manager: SessionManager, session_id: str, owner: Owner, path: Path) -> Session:
    session = await manager.get(session_id, owner=owner)
    if session is None:
        raise _missing(session_id, owner, path)
    return session


def _missing(session_id: str, owner: Owner, path: Path) -> NotFound:
    return NotFound(f"there is no session {session_id!r} of user {_of(owner)} in {path}")


def _of(owner: Owner) -> str:
    return repr(owner.user_id) + (f" of tenant {owner.tenant_id!r}" if owner.tenant_id is not None else "")


def _remark(session: Session, runs: tuple[UnfinishedRun, ...]) -> str:
    if runs:
        return f"a run {state(runs[0])}" + (f", {len(runs) - 1} more unfinished" if len(runs) > 1 else "")
    return "closed" if session.closed else ""


def _document(session: Session, runs: tuple[UnfinishedRun, ...]) -> dict[str, Any]:
    return {**msgspec.to_builtins(session), "unfinished_runs": msgspec.to_builtins(runs)}


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(document).decode())


def _confirm(question: str, yes: bool, *remarks: str) -> None:
    if yes:
        return
    lines = Lines()
    if not lines.typed:
        raise CommandFailed("nobody is there to be asked", hint="--yes does it without asking")
    for remark in remarks:
        notice(remark)
    if (lines.next(f"{question} [y/N] ") or "").strip().lower() not in ("y", "yes"):
        notice("nothing was changed")
        raise typer.Exit(FAILED)


def _write_new(path: Path, data: bytes) -> None:
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # nobody else's to read
    except FileExistsError:
        raise CommandFailed(f"{path} exists already", hint="name another file, or remove it first") from None
    try:
        with file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
