"""`agent-runtime resume`: go on with a run that was cut short, or that waits for an answer."""

from inspect import cleandoc
from pathlib import Path
from typing import Annotated

import typer

from agent_runtime import AgentExecutor, NotFound, Resume, UnfinishedRun
from agent_runtime_adapters.cli.built_in import built_in
from agent_runtime_adapters.cli.dialogue import Dialogue
from agent_runtime_adapters.cli.exits import EXIT_CODES, WAITS, CommandFailed, Ended, Waits
from agent_runtime_adapters.cli.kept import kept
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.place import (
    Database,
    KeysUser,
    Place,
    Tenant,
    remembering,
)
from agent_runtime_adapters.cli.questions import check, given, told
from agent_runtime_adapters.cli.run import failure, print_json
from agent_runtime_adapters.cli.terminal import Answer, keep_logs_out
from agent_runtime_adapters.cli.turns import Turns, turns

Key = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help="The environment variable that holds --user's credential."),
]
Docs = Annotated[
    Path | None, typer.Option("--docs", metavar="FOLDER", help="Without an executor of yours: Markdown to answer from.")
]


def resume(
    words: Annotated[
        list[str], typer.Argument(metavar="[MODULE:ATTRIBUTE] SESSION", help="Your executor, and the session.")
    ],
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Which run. [default: the newest]")] = None,
    answer: Annotated[
        list[str] | None, typer.Option("--answer", metavar="KEY=JSON", help="The answer to a question; repeatable.")
    ] = None,
    db: Database = None,
    docs: Docs = None,
    user: KeysUser = None,
    tenant: Tenant = None,
    api_key_env: Key = None,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Also when the agent has other tools than the run began with.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Ask nothing, and print the result as one JSON document at the end.")
    ] = False,
) -> None:
    """Go on with a run that was cut short.

    What its tools and models gave is not asked for again. Open questions are asked on a terminal; elsewhere they are
    printed, and the exit code is 3.
    """
    target, session_id = _parts(words)
    place = Place(session_id, user=user, tenant=tenant, target=target, db=db, docs=docs, api_key_env=api_key_env)
    answers = given(answer or ())
    lines = Lines()
    keep_logs_out()
    with turns(_executor(target, db, docs)) as open_turns:
        unfinished = find(open_turns, place, run)
        check(answers, unfinished)
        dialogue = Dialogue(
            open_turns, place, lines if lines.typed and not as_json else None, None if as_json else Answer()
        )
        try:
            result = dialogue.resume(unfinished, Resume(answers=answers, run_id=run, allow_changed=allow_changed))
        except Waits as waits:
            if as_json and waits.result is not None:
                print_json(waits.result)
            told(waits.questions, place.command("resume"), shown=waits.shown)
            raise typer.Exit(WAITS) from None
        except Ended as ended:
            raise dialogue.interrupted(ended.code) from None
        if result is None:
            raise dialogue.interrupted()
    if as_json:
        print_json(result)
    if not result.success:
        raise failure(result)


resume.__doc__ = f"{cleandoc(resume.__doc__ or '')}\n\n{EXIT_CODES}"


def find(turns: Turns, place: Place, run_id: str | None) -> UnfinishedRun | None:
    """The unfinished run that is meant; `None` for an id that may be one of an earlier part of a run.

    Raises `NotFound` where there is none at all.
    """
    runs = turns.unfinished(place)
    if not runs:
        known = turns.ask(turns.sessions.exists, place.session_id, owner=place.owner)
        of = f"{place.session_id!r} of user {place.owner.user_id!r}"
        raise NotFound(f"session {of} has no unfinished run" if known else f"there is no session {of}")
    if run_id is None:
        return runs[0]
    return next((run for run in runs if run_id in (run.run_id, run.last_run_id)), None)


def _parts(words: list[str]) -> tuple[str | None, str]:
    """The executor, if one is named, and the session: an id never has a colon."""
    target, session_id = words if len(words) == 2 else (None, words[0])
    if len(words) <= 2 and ":" not in session_id and (target is None or ":" in target):
        return target, session_id
    raise CommandFailed(f"{' '.join(words)!r} is not [MODULE:ATTRIBUTE] SESSION")


def _executor(target: str | None, db: str | None, docs: Path | None) -> AgentExecutor:
    if target is None:
        return built_in(kept(db, reads=True).sessions(), docs)[0]
    return remembering(target, db, reads=True)
