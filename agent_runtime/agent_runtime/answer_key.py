"""Which questions are the same, so that one answer serves them, and which answers may serve another."""

import hashlib
from collections.abc import Mapping
from typing import Literal, TypeAlias, cast

import msgspec

from agent_runtime.context import AgentContext, ModelRequest
from agent_runtime.payload import plain_json
from agent_runtime.types import NO_USAGE, AgentResult, ModelResponse, Owner, Value

Share: TypeAlias = Literal["user", "tenant", "everyone"]
"""Who may get an answer that was made for one user: that user, all of the tenant, or everyone.

A user without a tenant is with "tenant" alone, as with "user".
"""

FORMAT = 1  # of what is hashed: raise it with every change, so that no answer is found under a key of another meaning

# What of a request does not shape its answer; the client counts by its identity, the context by agent and owner. Any other
# field, also one that is added later, is a part of the key.
NOT_SHAPING = frozenset({"fits", "step", "attempt", "stream", "context", "emit", "client"})
_SHAPING = tuple(name for name in ModelRequest.__struct_fields__ if name not in NOT_SHAPING)


class AnswerKey(Value, frozen=True, kw_only=True):
    """A question as its owner asks it: equal where an answer to one answers the other.

    `digest` is 64 hexadecimal characters of SHA-256, over the owner too.
    """

    owner: Owner
    digest: str


def model_answer_key(request: ModelRequest, *, share: Share = "user", version: str = "") -> AnswerKey | None:
    """The key of a model call: all of the request that shapes its answer, who answers, the agent, and who may share it.

    Who answers is `client.identity` where that is text, and otherwise the client's class and `model`. `None` where there
    can be no key: a parameter is no plain value, a text has half a character, or the context names another user than the
    run's principal.
    """
    owner = _shared_owner(request.context, share)
    if owner is None:
        return None
    shaping = [getattr(request, name) for name in _SHAPING]
    return _key(owner, "model", share, version, request.context.agent_id, client_identity(request.client), shaping)


def run_answer_key(context: AgentContext, *, share: Share = "user", version: str = "") -> AnswerKey | None:
    """The key of a whole run: agent, task, messages, metadata, the principal's scopes, and who may share it.

    It does not know the agent's prompt, model and tools: they are what `version` is for. `None` also with a session, whose
    history shapes the answer and grows with it.
    """
    owner = _shared_owner(context, share)
    if owner is None or context.session_id is not None:
        return None
    principal = context.run.principal
    scopes = None if principal is None else sorted(principal.scopes)
    asked = [context.current_task, context.messages, plain_json(context.metadata), scopes, context.depth]
    return _key(owner, "run", share, version, context.agent_id, "", asked)


def client_identity(client: object) -> str:
    """What tells a client's answers from another's: its `identity`, or else its class and its `model`."""
    identity = getattr(client, "identity", None)
    if isinstance(identity, str):
        return identity
    kind, model = type(client), getattr(client, "model", None)
    return f"{kind.__module__}.{kind.__qualname__}" + (f" {model}" if isinstance(model, str) else "")


def shared_response(request: ModelRequest, response: ModelResponse) -> ModelResponse | None:
    """The answer as another who asked the same gets it: nobody has paid. `None` where it is not for others.

    Those are one that wants tools, and what came out of a run that was cancelled.
    """
    if response.message.tool_calls or _is_over(request.context):
        return None
    return response.replace(usage=NO_USAGE, cached=True)


def shared_result(context: AgentContext, result: AgentResult) -> AgentResult | None:
    """The result as another who asked the same gets it. `None` where it is not for others.

    Those are a failure, a question, one with `data`, one for which a tool was started that is not `pure`, and what came out
    of a run that was cancelled. What an agent does past `context.call_tool`, or in another executor's run, nobody sees.
    """
    alone = not result.success or result.questions or result.data is not None or context.run.effects
    if alone or _is_over(context):
        return None
    return AgentResult(
        output=result.output,
        messages=result.messages,
        model=result.model,
        finish_reason=result.finish_reason,
        metadata=result.metadata,
        served_by="cache",
    )


def _is_over(context: AgentContext) -> bool:
    return context.run.closed or context.run.scope.cancel_called


def _shared_owner(context: AgentContext, share: Share) -> Owner | None:
    owner = context.owner
    principal = context.run.principal
    if principal is not None and (principal.subject, principal.tenant) != (owner.user_id, owner.tenant_id):
        return None  # a layer has changed whose run it is: the executor will refuse it, and no answer comes before that
    if share == "everyone":
        return _EVERYONE
    if share == "tenant" and owner.tenant_id is not None:
        return Owner(tenant_id=owner.tenant_id, user_id="")
    return owner


_EVERYONE = Owner(tenant_id=None, user_id="")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    raise TypeError(f"a {type(value).__name__} is no plain value")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain, order="deterministic").encode


def _key(owner: Owner, *parts: object) -> AnswerKey | None:
    try:
        hashed = _encode((FORMAT, owner, parts))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return AnswerKey(owner=owner, digest=hashlib.sha256(hashed).hexdigest())
