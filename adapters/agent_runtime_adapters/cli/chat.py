"""`agent-runtime chat`: a conversation in the terminal, streamed, remembered, resumable."""

import secrets
from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated

import typer

from agent_runtime import AgentExecutor, AgentResult, AgentRuntimeError, Resume, UnfinishedRun
from agent_runtime_adapters.cli.built_in import built_in
from agent_runtime_adapters.cli.dialogue import Dialogue
from agent_runtime_adapters.cli.exits import EXIT_CODES, FAILED, USAGE, WAITS, CommandFailed, Ended, Interrupted, Waits
from agent_runtime_adapters.cli.kept import kept
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.place import (
    Database,
    KeysUser,
    Place,
    Tenant,
    remembering,
)
from agent_runtime_adapters.cli.questions import told
from agent_runtime_adapters.cli.resume import Docs, Key
from agent_runtime_adapters.cli.run import failure
from agent_runtime_adapters.cli.terminal import Answer, complain, console, keep_logs_out, notice
from agent_runtime_adapters.cli.turns import Turns, turns
from agent_runtime_adapters.cli.view import ago, messages, shortened, state

_SHOWN = 20  # messages of /history
_HELP = """\
/history [N]  the last messages
/resume       go on with the run that was cut short, or that waits for an answer
/discard      give that run up
/quit         leave; Ctrl-D does too
Ctrl-C ends an answer. A line that begins with a space is never a command."""


def chat(
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:ATTRIBUTE", help="An executor of yours. [default: the environment's model]"),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The conversation to go on with. [default: a new one]")
    ] = None,
    db: Database = None,
    docs: Docs = None,
    user: KeysUser = None,
    tenant: Tenant = None,
    api_key_env: Key = None,
) -> None:
    """Talk with an agent that remembers.

    Piped, each line of standard input is one message, and the exit code is that of the last run.
    """
    place = Place(
        session or secrets.token_hex(5),
        user=user,
        tenant=tenant,
        target=target,
        db=db,
        docs=docs,
        api_key_env=api_key_env,
    )
    keep_logs_out()
    executor, about = _executor(target, db, docs)
    with turns(executor) as open_turns:
        code = Chat(open_turns, place, Lines(), about).talk()
    raise typer.Exit(code)


chat.__doc__ = f"""{cleandoc(chat.__doc__ or "")}

Without MODULE:ATTRIBUTE it is the environment's model, as in the demo; with --docs, or where no model is set, the demo's
assistant.

{EXIT_CODES}"""


def _executor(target: str | None, db: Database, docs: Docs) -> tuple[AgentExecutor, str]:
    if target is None:
        return built_in(kept(db).sessions(), docs)
    if docs is not None:
        raise CommandFailed(f"--docs: {target} has tools of its own")
    executor = remembering(target, db)
    return executor, executor.agent_id


class Chat:
    """Takes lines until there are no more."""

    def __init__(self, turns: Turns, place: Place, lines: Lines, about: str) -> None:
        self._turns = turns
        self._place = place
        self._lines = lines
        self._about = about
        self._dialogue = Dialogue(turns, place, lines, Answer())
        self._go_on = f"go on another time with: {place.command('chat')}"
        self._code = 0
        self._commands = {
            "/history": self._history,
            "/resume": self._resume,
            "/discard": self._discard,
            "/help": self._help,
        }

    def talk(self) -> int:
        """The exit code."""
        try:
            return self._talk()
        except Ended as ended:
            kept = self._unfinished() is not None
            go_on = f"an unfinished run is kept:\n{self._place.command('resume')}" if kept else self._go_on
            raise Interrupted(f"interrupted; {go_on}", code=ended.code) from None

    def _talk(self) -> int:
        self._greet()
        self._offer()
        while (line := self._line()) is not None and line.rstrip() != "/quit":
            if line.strip():
                self._take(line)
                self._space()
        if self._lines.typed:
            notice(self._go_on)
            return 0
        return self._code

    def _greet(self) -> None:
        session = self._turns.ask(self._turns.sessions.get, self._place.session_id, owner=self._place.owner)
        known = f"{session.message_count} messages, the last {ago(session.updated_at)}" if session else "new"
        notice(f"session {self._place.session_id}: {known}")
        if self._lines.typed:
            notice(f"agent {self._about}\nCtrl-C ends an answer, Ctrl-D leaves, /help tells more\n")

    def _offer(self) -> None:
        """Tell of a run that was cut short, and take it up if the person says so."""
        run = self._unfinished()
        if run is None:
            return
        notice(f"unfinished: {shortened(run.task)}\n(begun {ago(run.created_at)}; {state(run)})")
        if not self._lines.typed:
            notice("/resume goes on with it")
            return
        answer = self._line("resume it? [Y/n] ")
        if answer is not None and answer.strip().lower() in ("", "y", "yes"):
            self._resume("")
        else:
            notice("/resume goes on with it later, /discard gives it up")
        self._space()

    def _space(self) -> None:
        """An empty line, so that a person sees where the next part begins."""
        if self._lines.typed:
            notice("")

    def _line(self, prompt: str = "> ") -> str | None:
        while True:
            try:
                return self._lines.next(prompt)
            except KeyboardInterrupt as interrupt:
                if not self._lines.typed or isinstance(interrupt, Ended):
                    raise
                notice("\nCtrl-D leaves")

    def _take(self, line: str) -> None:
        """Answer a line. A store that fails is told, and the next line may find it well again."""
        try:
            if line.startswith("/"):
                self._obey(line)
            else:
                self._show(lambda: self._dialogue.say(line.strip()))
        except AgentRuntimeError as error:
            self._code = FAILED
            complain(str(error))

    def _obey(self, line: str) -> None:
        name, _, rest = line.strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            self._code = USAGE
            complain(f"there is no command {name}", hint="/help lists them; a space before it makes it a message")
        else:
            command(rest.strip())

    def _show(self, run: Callable[[], AgentResult | None]) -> None:
        """Have it run, and say how it ended where that was no answer."""
        try:
            result = run()
            self._code = 0
            if result is None:
                self._cancelled()
            elif not result.success:
                raise failure(result)
        except Waits as waits:
            self._code = WAITS
            if self._lines.typed:
                notice("the run waits; /resume asks again")
            else:
                told(waits.questions, self._place.command("resume"), shown=waits.shown)
        except CommandFailed as error:
            self._code = FAILED
            complain(str(error), hint=error.hint or ("/resume tries again" if self._unfinished() else None))

    def _cancelled(self) -> None:
        if not self._lines.typed:
            raise self._dialogue.interrupted()
        if self._unfinished():
            notice("cancelled; what it has finished is kept, and /resume goes on with it")
        else:
            notice("cancelled; nothing is kept of it")

    def _unfinished(self) -> UnfinishedRun | None:
        return next(iter(self._turns.unfinished(self._place)), None)

    def _history(self, count: str) -> None:
        if count and not count.isdecimal():
            complain(f"{count!r} is not a number of messages")
            return
        place = self._place
        known = self._turns.ask(self._turns.sessions.exists, place.session_id, owner=place.owner)
        if known:
            window = int(count or _SHOWN)
            read = self._turns.sessions.messages
            messages(console(), self._turns.ask(read, place.session_id, owner=place.owner, window=window))

    def _resume(self, _: str) -> None:
        run = self._unfinished()
        if run is None:
            notice("there is no unfinished run")
        else:
            self._show(lambda: self._dialogue.resume(run, Resume(run_id=run.run_id)))

    def _discard(self, _: str) -> None:
        run = self._unfinished()
        if run is None:
            notice("there is no unfinished run")
            return
        self._turns.ask(self._turns.sessions.discard_run, self._place.session_id, run.run_id, owner=self._place.owner)
        notice(f"given up: {shortened(run.task)}")

    def _help(self, _: str) -> None:
        notice(_HELP)
