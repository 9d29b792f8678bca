"""`agent-runtime demo`: a documentation assistant inside an onion, on real files."""

import os
from pathlib import Path
from typing import Annotated

import typer

from agent_runtime import AgentContext, LLMClient
from agent_runtime_adapters.cli import late
from agent_runtime_adapters.cli.assistant import assistant, demo_key, document_tools
from agent_runtime_adapters.cli.exits import EXIT_CODES
from agent_runtime_adapters.cli.extractive import ExtractiveClient
from agent_runtime_adapters.cli.killed import show_killed
from agent_runtime_adapters.cli.library import Library, read_library
from agent_runtime_adapters.cli.many import show_many
from agent_runtime_adapters.cli.model import API_KEY, BASE_URL, MODEL, ModelChoice, chosen
from agent_runtime_adapters.cli.run import failure
from agent_runtime_adapters.cli.streaming import run_to_end, streamed
from agent_runtime_adapters.cli.terminal import Answer, Progress, console
from agent_runtime_adapters.cli.tour import Tour, own_questions

PACE = 0.012  # seconds after each word on a terminal: as fast as one reads
_QUESTIONS = (
    "In which order do the layers of an onion run?",
    "How are API keys stored?",
    "Which errors are retried?",
)


def demo(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="What to ask; left out, the demo asks three questions.")
    ] = None,
    docs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Markdown files to answer from. [default: this project's docs]"),
    ] = None,
) -> None:
    """Answer questions about Markdown files."""
    library = read_library(default_docs() if docs is None else docs)
    choice = chosen(os.environ)
    client = model_client(choice, pace=PACE if console().is_terminal else 0.0)
    if question is not None:
        run_to_end(_answer, question, library, client, choice)
        return
    questions = own_questions(library) if docs is not None else _QUESTIONS
    run_to_end(Tour(library, client, choice).show, questions)
    show_many(library)
    show_killed()


demo.__doc__ = f"""{demo.__doc__}

Without a question it asks three, shows what each layer does about them, runs a batch of 200, and kills a process in the
middle of a tool to go on in another.

Without a model, an extractive client searches and quotes. A real one comes from the environment: {MODEL} with {API_KEY} (or
OPENAI_API_KEY), or with {BASE_URL} for any server that speaks chat completions.

{EXIT_CODES}"""


def default_docs() -> Path:
    """This project's own documentation: of the clone that this file is in, else the copy in the wheel."""
    here = Path(__file__).resolve()
    clone = here.parents[3]
    return clone / "docs" if (clone / "mkdocs.yml").is_file() else here.parent / "docs"


def model_client(choice: ModelChoice | None, *, pace: float = 0.0) -> LLMClient:
    """The client for the chosen model, or the extractive one."""
    if choice is None:
        return ExtractiveClient(pace=pace)
    return late.openai_client()(choice.model, base_url=choice.base_url, api_key=choice.api_key)


async def _answer(question: str, library: Library, client: LLMClient, choice: ModelChoice | None) -> None:
    progress = Progress()
    if choice is None:
        progress.say("no model is configured: an extractive client quotes the best passages")
    answer = Answer()

    def tell(*words: str) -> None:
        answer.end()
        progress.say(*words)

    key, records = demo_key()
    executor = assistant(client, document_tools(library, tell), records=records, write=lambda record: None)
    async with executor:
        result = await streamed(executor, AgentContext(current_task=question, credential=key), answer)
    if not result.success:
        raise failure(result)
