"""The agent of a conversation for which no executor is named."""

import os
from pathlib import Path

from agent_runtime import AgentConfig, AgentExecutor, Limits, SessionManager
from agent_runtime_adapters.cli.assistant import PROMPT, document_tools
from agent_runtime_adapters.cli.demo import PACE, default_docs, model_client
from agent_runtime_adapters.cli.library import read_library
from agent_runtime_adapters.cli.model import MODEL, chosen
from agent_runtime_adapters.cli.terminal import console
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

_LIMITS = Limits(run=300, lease=6.0, lease_renewal=2.0)  # one person waits for it, when the process was killed


def built_in(sessions: SessionManager | None, docs: Path | None) -> tuple[AgentExecutor, str]:
    """The executor, and what it is in words.

    The model that the environment chooses. With `docs`, or where no model is chosen, the documentation assistant of the
    demo, which without a model searches and quotes.
    """
    choice = chosen(os.environ)
    answers_from_docs = docs is not None or choice is None
    folder = docs or default_docs()
    source = "this project's documentation" if docs is None else str(docs)
    about = f"answers from {source}" if answers_from_docs else "has no tools"
    model = f"{choice.model} at {choice.host}" if choice else f"no model: it searches and quotes; {MODEL} brings one"
    executor = AgentExecutor(
        config=AgentConfig(name="docs", system_prompt=PROMPT) if answers_from_docs else AgentConfig(name="chat"),
        llm_client=model_client(choice, pace=PACE if console().is_terminal else 0.0),
        tools=document_tools(read_library(folder), lambda *words: None) if answers_from_docs else [],
        middleware=[RetryMiddleware(attempts=3), TimeoutMiddleware(run=_LIMITS.run, model=60, tool=10)],
        session_manager=sessions,
        limits=_LIMITS,
        shutdown_grace=1.0,
    )
    return executor, f"{about}; {model}"
