"""The demo without a question: three answers, and what the layers do about them. What follows is in `many` and `killed`."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from agent_runtime import AgentContext, AgentExecutor, AgentResult, EventBus, LLMClient, Secret
from agent_runtime_adapters.cli import late
from agent_runtime_adapters.cli.assistant import assistant, demo_key, document_tools, hanging_search
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.extractive import ExtractiveClient
from agent_runtime_adapters.cli.library import Library
from agent_runtime_adapters.cli.many import ask_about
from agent_runtime_adapters.cli.model import MODEL, ModelChoice
from agent_runtime_adapters.cli.onion import onion
from agent_runtime_adapters.cli.run import failure
from agent_runtime_adapters.cli.sections import INDENT, facts, title
from agent_runtime_adapters.cli.streaming import streamed
from agent_runtime_adapters.cli.terminal import Answer, console, printable
from agent_runtime_adapters.cli.times import LayerTimes
from agent_runtime_middleware.auth import ApiKeys
from agent_runtime_middleware.logging import LogRecord

if TYPE_CHECKING:
    from agent_runtime_adapters.cli.spans import Spans

_LOGGED = ("outcome", "error_type", "user_id", "duration_ms")
_HANG = 30.0  # seconds that the broken search would take
_PATIENCE = 0.5  # seconds that its run gets


def own_questions(library: Library) -> Sequence[str]:
    """Three questions about any folder: what it says under headings from its beginning, middle and end."""
    topics = library.topics
    places = dict.fromkeys((0, len(topics) // 2, len(topics) - 1))
    return [ask_about(topics[place]) for place in places]


class Tour:
    """Shows everything, section by section, on standard output."""

    def __init__(self, library: Library, client: LLMClient, choice: ModelChoice | None) -> None:
        self._out = console()
        self._library = library
        self._client = client
        self._choice = choice
        self._answer = Answer(INDENT)
        self._log: deque[LogRecord] = deque(maxlen=1)
        self._key, self._records = demo_key()

    async def show(self, questions: Sequence[str]) -> None:
        """Raises `CommandFailed` when a question cannot be answered."""
        self._introduce()
        bus, times = EventBus(), LayerTimes()
        tools = document_tools(self._library, self._tell)
        spans = _spans()
        executor = assistant(
            self._client,
            tools,
            records=self._records,
            write=self._log.append,
            event_bus=bus,
            requests=len(questions) + 1,
            traces=spans.provider if spans else None,
        )
        async with executor:
            await times.listen(bus)
            results = [
                await self._ask(executor, number, question) for number, question in enumerate(questions, start=1)
            ]
            await self._ask_again(executor, questions[0], results[0])
            await bus.drain()
            slow = (
                "" if self._choice or not self._out.is_terminal else "; the client writes slowly, so that you can read"
            )
            title(
                self._out,
                "The onion",
                f"calls and time in the {len(questions) + 1} runs above; inner layers included{slow}",
            )
            self._out.print(onion(executor, times.beside, self._out.width))
            self._trace(spans, results[0])
            await self._refuse(executor)
            await self._limit(executor, len(questions) + 1)
        await self._time_out()

    def _introduce(self) -> None:
        files, passages = len(self._library.files), len(self._library.passages)
        if self._choice is None:
            model = f"none is configured: an extractive client searches and quotes, word for word; {MODEL} brings a real one"
        else:
            model = f"{self._choice.model} at {self._choice.host}"
        self._out.print(Text("A documentation assistant, inside seven layers", style="bold"))
        facts(self._out, ("documents", f"{files} files, {passages} passages"), ("model", model))

    async def _ask(self, executor: AgentExecutor, number: int, question: str) -> AgentResult:
        title(self._out, f"{number}  {question}")
        result = await streamed(executor, self._context(question, self._key), self._answer)
        if not result.success:
            raise failure(result)
        usage = result.usage
        tokens = f", {usage.input_tokens + usage.output_tokens:,} tokens" if usage.output_tokens else ""
        spent = f"{result.execution_time_ms / 1000:.2f} s, {usage.requests} model calls{tokens}"
        self._out.print()
        self._out.print(Text(f"{' ' * INDENT}{spent}", style="dim"))
        return result

    async def _ask_again(self, executor: AgentExecutor, question: str, first: AgentResult) -> None:
        title(self._out, "The first question again")
        result = await executor.execute(self._context(question, self._key))
        if not result.success:
            raise failure(result)
        same = "the same, word for word" if result.output == first.output else "another one"
        facts(
            self._out,
            ("answer", same),
            ("served_by", result.served_by),
            ("after", f"{result.execution_time_ms:,.2f} ms, {result.usage.requests} model calls"),
        )

    def _trace(self, spans: "Spans | None", result: AgentResult) -> None:
        title(self._out, "The trace of the first question", "each span with its time, as OpenTelemetry has it")
        if spans is None:
            facts(self._out, ("trace", "needs the SDK: pip install 'onion-agent-runtime[otel]'"))
        else:
            self._out.print(spans.tree(result.trace_id, self._out.width))

    async def _limit(self, executor: AgentExecutor, admitted: int) -> None:
        title(self._out, "One request too many", f"{admitted} in an hour are admitted, and used up above")
        result = await executor.execute(self._context("One more?", self._key))
        details = result.error_details
        self._outcome(result)
        facts(
            self._out,
            ("limit", f"{details['limit']:g} in {details['per']:,g} s, {details['remaining']} remaining"),
            ("retry after", f"{result.retry_after or 0:,.1f} s"),
        )

    async def _refuse(self, executor: AgentExecutor) -> None:
        title(self._out, "A wrong key", "an API key of the right form that nobody issued")
        stranger, _ = ApiKeys.generate("demo")
        self._outcome(await executor.execute(self._context("Let me in.", stranger)))

    async def _time_out(self) -> None:
        title(self._out, "A timeout", f"a search that hangs for {_HANG:g} s, in a run that may take {_PATIENCE:g} s")
        tools = [hanging_search(_HANG)]
        executor = assistant(
            ExtractiveClient(), tools, records=self._records, write=self._log.append, run_timeout=_PATIENCE
        )
        async with executor:
            self._outcome(await executor.execute(self._context("Does it hang?", self._key)))

    def _outcome(self, result: AgentResult) -> None:
        outcome = "success" if result.success else str(result.error_type)
        facts(
            self._out,
            ("error_type", outcome),
            ("error", result.error or "none"),
            ("after", f"{result.execution_time_ms:,.1f} ms"),
            ("log", self._logged()),
        )

    def _logged(self) -> str:
        """The end of the run as the Logging layer told it, shortened."""
        record = self._log[-1]
        fields = record.fields()
        return " ".join([record.event, *(f"{name}={fields[name]}" for name in _LOGGED if name in fields)])

    def _context(self, task: str, credential: Secret) -> AgentContext:
        return AgentContext(current_task=task, credential=credential)

    def _tell(self, tool: str, asked: str) -> None:
        self._answer.end_apart()
        line = Text(f"{' ' * INDENT}{tool:<7}{printable(asked)}", style="dim")
        self._out.print(line, no_wrap=True, overflow="ellipsis")


def _spans() -> "Spans | None":
    """`None` where the SDK is not installed: the demo goes on without a trace."""
    try:
        return late.spans()()
    except CommandFailed:
        return None
