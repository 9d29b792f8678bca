"""The demo's part about many tasks: a batch answers 200 questions about the documents."""

from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from agent_runtime import AgentContext
from agent_runtime_adapters.cli.assistant import assistant, demo_key, document_tools
from agent_runtime_adapters.cli.batch_input import Asked, opened_input
from agent_runtime_adapters.cli.batch_output import opened_output
from agent_runtime_adapters.cli.batch_plan import FINISHED, Plan
from agent_runtime_adapters.cli.batch_run import Batch, run_batch
from agent_runtime_adapters.cli.batch_summary import Summary, Tally, show
from agent_runtime_adapters.cli.exits import Interrupted
from agent_runtime_adapters.cli.extractive import ExtractiveClient
from agent_runtime_adapters.cli.library import Library
from agent_runtime_adapters.cli.sections import title
from agent_runtime_adapters.cli.terminal import console

_QUESTIONS = 200
_AT_ONCE = 8


def show_many(library: Library) -> None:
    """Show it on standard output. The extractive client answers, also where there is a model: 200 calls are not free."""
    out = console()
    topics = library.topics
    title(
        out,
        f"A batch of {_QUESTIONS} questions",
        f"one for each of the {len(topics)} headings, and again from the first; the extractive client, {_AT_ONCE} at a time",
    )
    with TemporaryDirectory(prefix="agent-runtime-demo-") as folder:
        questions = Path(folder) / "questions.jsonl"
        tasks = (
            Asked(id=place, task=ask_about(topic)) for place, topic in enumerate(islice(cycle(topics), _QUESTIONS))
        )
        questions.write_bytes(b"".join(msgspec.json.encode(task) + b"\n" for task in tasks))
        show(_answered(library, questions), out)


def ask_about(topic: str) -> str:
    """A question about any heading."""
    return f"What is said about {topic}?"


def _answered(library: Library, questions: Path) -> Summary:
    key, records = demo_key()
    executor = assistant(
        ExtractiveClient(),
        document_tools(library, lambda *words: None),
        records=records,
        write=lambda record: None,
        requests=_QUESTIONS,
    )
    tally = Tally()
    answers = questions.with_name("answers.jsonl")
    with opened_input(questions) as source, opened_output(answers, source) as output:
        plan = Plan(source, output, tally, FINISHED[None])
        context = AgentContext(credential=key)
        work = Batch(executor, source, plan, output, tally, context=context, concurrency=_AT_ONCE, timeout=None)
        code = run_batch(work, tally, plan.lines, bar=console(stderr=True).is_terminal)
    if code:
        raise Interrupted("interrupted; the runs were ended", code=code)
    return tally.summary("", left=0)  # the folder is gone by then
