"""`agent-runtime sessions`: the conversations in a SQLite file, or on a server."""

from typing import Annotated

import msgspec
import typer

from agent_runtime import NotFound, Owner, Session, UnfinishedRun
from agent_runtime_adapters.cli.deleting import delete
from agent_runtime_adapters.cli.exits import EXIT_CODES
from agent_runtime_adapters.cli.kept import kept, opened
from agent_runtime_adapters.cli.moving import export, import_sessions
from agent_runtime_adapters.cli.owned import confirm, document, found, of, print_json, unfinished
from agent_runtime_adapters.cli.place import DEFAULT_USER, Database, Json, Place, Tenant, User, Yes
from agent_runtime_adapters.cli.terminal import console, notice
from agent_runtime_adapters.cli.view import ago, facts, messages, session_facts, state, table, unfinished_facts

Name = Annotated[str, typer.Argument(metavar="ID", help="The session.")]

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
    place, owner = kept(db, reads=True), Owner(tenant_id=tenant, user_id=user)
    with opened(place.sessions()) as sessions:
        every = sessions.ask(sessions.manager.list_by_user, owner=owner)
        latest = sorted(every, key=lambda session: session.updated_at, reverse=True)[:last]
        shown = [(session, unfinished(sessions, session.session_id, owner)) for session in latest]
    if as_json:
        print_json({"total": len(every), "sessions": [document(*item) for item in shown]})
        return
    if not every:
        notice(f"no sessions of user {of(owner)} in {place.name}")
        return
    rows = [
        (item.session_id, item.agent_id, f"{item.message_count:,}", ago(item.updated_at), _remark(item, runs))
        for item, runs in shown
    ]
    table([("SESSION", "AGENT", "MESSAGES", "LAST WRITE", "STATUS"), *rows], console())
    if len(every) > len(shown):
        notice(f"{len(every) - len(shown):,} more; --last {len(every)} lists all")


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
    kept_in, owner = kept(db, reads=True), Owner(tenant_id=tenant, user_id=user)
    with opened(kept_in.sessions()) as sessions:
        session = found(sessions, session_id, owner, kept_in.name)
        runs = unfinished(sessions, session_id, owner)
        window = None if everything else last
        conversation = sessions.ask(sessions.manager.messages, session_id, owner=owner, window=window)
    if as_json:
        print_json({**document(session, runs), "messages": conversation})
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


sessions.command()(export)
sessions.command("import")(import_sessions)
sessions.command()(delete)


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
    place, owner = kept(db, reads=True), Owner(tenant_id=tenant, user_id=user)
    with opened(place.sessions()) as sessions:
        runs = unfinished(sessions, session_id, owner)
        run = next((run for run in runs if run_id in (run.run_id, run.last_run_id)), None)
        if run is None:
            raise NotFound(f"session {session_id!r} of user {of(owner)} has no unfinished run {run_id!r}")
        if not yes:
            confirm(f"Give up the run {run.run_id}, which {state(run)}?")
        sessions.ask(sessions.manager.discard_run, session_id, run.run_id, owner=owner)


def _remark(session: Session, runs: tuple[UnfinishedRun, ...]) -> str:
    if runs:
        return f"a run {state(runs[0])}" + (f", {len(runs) - 1} more unfinished" if len(runs) > 1 else "")
    return "closed" if session.closed else ""
