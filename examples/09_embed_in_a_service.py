"""An agent in an ASGI service that you already have: an answer as JSON, and the same run as server-sent events.

The service is `app`; serve it with any ASGI server. `main` tries it over a real loopback connection.
"""

import asyncio
import math
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    Envelope,
    ErrorType,
    ModelRequest,
    Secret,
    StreamEvent,
    encode_event,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware, LogRecord
from agent_runtime_middleware.timeout import TimeoutMiddleware

STATUS = {
    ErrorType.AUTHENTICATION: 401,
    ErrorType.AUTHORIZATION: 403,
    ErrorType.NOT_FOUND: 404,
    ErrorType.CONFLICT: 409,
    ErrorType.VALIDATION: 422,
    ErrorType.LIMIT: 422,
    ErrorType.RATE_LIMIT: 429,
    ErrorType.PROVIDER: 502,
    ErrorType.CLOSED: 503,
    ErrorType.STORE: 503,
    ErrorType.TIMEOUT: 504,
}
KEY, RECORD = ApiKeys.generate("ann")
cancelled = asyncio.Event()


def answer(request: ModelRequest) -> ScriptedReply:
    """Stands for a model. Asked for something long, it takes its time."""
    pause = 30.0 if "long" in request.messages[-1].content else 0.0
    return ScriptedReply(chunks=("Once ", pause, "upon a time."))


def log(record: LogRecord) -> None:
    if record.event == "agent_run":
        print(f"[log] {record.user_id}: {record.outcome}")
    if record.outcome == "cancelled":
        cancelled.set()


executor = AgentExecutor(
    config=AgentConfig(name="narrator"),
    llm_client=ScriptedLLMClient([answer], repeat=True),
    middleware=[LoggingMiddleware(log), AuthMiddleware(ApiKeys({RECORD.prefix: RECORD})), TimeoutMiddleware(run=60)],
)


async def context_of(request: Request) -> AgentContext:
    """The task from the body, the credential from the header; the Auth layer says whose it is."""
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    return AgentContext(current_task=(await request.body()).decode("utf-8", "replace"), credential=Secret(key))


async def ask(request: Request) -> Response:
    """POST /ask: the whole answer."""
    result = await executor.execute(await context_of(request))
    if result.success:
        return JSONResponse({"output": result.output, "run_id": result.run_id})
    status = STATUS.get(result.error_type or ErrorType.INTERNAL, 500)
    later = {} if result.retry_after is None else {"retry-after": str(math.ceil(result.retry_after))}
    return JSONResponse({"error": result.error, "error_type": result.error_type}, status, later)


class Events:
    """POST /events: each event of the run as it happens. A client that disconnects ends the run."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = await context_of(Request(scope, receive))
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        run_id, sequence = "", 0

        async def send_event(event: StreamEvent) -> None:
            nonlocal run_id, sequence
            sequence += 1
            run_id = getattr(event, "run_id", run_id)
            data = encode_event(Envelope(run_id=run_id, seq=sequence, event=event))
            await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

        async def end_on_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(end_on_disconnect)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await executor.execute(context, emit=send_event)
            await send({"type": "http.response.body", "body": b""})
            group.cancel_scope.cancel()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with executor:  # on exit: no new runs, and those in flight get their time to end
        yield


app = Starlette(
    routes=[Route("/ask", ask, methods=["POST"]), Route("/events", Events(), methods=["POST"])], lifespan=lifespan
)


@asynccontextmanager
async def served() -> AsyncGenerator[str]:
    """The service on a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True


async def main() -> None:
    known = {"authorization": f"Bearer {KEY.reveal()}"}
    async with served() as url, httpx2.AsyncClient(base_url=url, timeout=10) as client:
        response = await client.post("/ask", content="A short story, please.", headers=known)
        print(response.status_code, response.json()["output"])

        response = await client.post("/ask", content="A short story, please.")
        print(response.status_code, response.json()["error_type"])

        response = await client.post("/events", content="A short story, please.", headers=known)
        for line in response.text.splitlines():
            if "text_delta" in line:
                print(line.partition(',"event":')[2].removesuffix("}"))

        async with client.stream("POST", "/events", content="A long story, please.", headers=known) as streamed:
            async for line in streamed.aiter_lines():
                if "text_delta" in line:
                    break  # the client has heard enough, and the run ends at once
        await cancelled.wait()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# [log] ann: success
# 200 Once upon a time.
# [log] None: failure
# 401 authentication
# [log] ann: success
# {"type":"text_delta","text":"Once "}
# {"type":"text_delta","text":"upon a time."}
# [log] ann: cancelled
