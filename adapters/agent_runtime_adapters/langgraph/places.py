"""Which thread, namespace and checkpoint a LangGraph configuration means, and whose."""

from collections.abc import Mapping
from typing import Any

import msgspec

from agent_runtime import InvalidInput, Owner, PermissionDenied
from agent_runtime_adapters.langgraph.names import session_name

try:
    from langchain_core.runnables import RunnableConfig
except ImportError as error:
    raise ImportError("LangGraphSaver needs LangGraph: pip install 'onion-agent-runtime[langgraph]'") from error

_BRANCH = "__agent_runtime_branch"  # LangGraph keeps no key that begins with `__` in a checkpoint's metadata


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a thread of an owner.

    Attributes:
        ns: The namespace, `""` for the root.
        listed_ns: The same where it is listed; `None` for all.
        checkpoint_id: For a read the checkpoint that is meant, or `None` for the latest; for a put its parent.
        branches: The run goes on from a checkpoint that was not the namespace's latest.
        identity: The keys that say whose thread it is, as far as the configuration does.
    """

    owner: Owner
    thread_id: str
    session_id: str
    ns: str = ""
    listed_ns: str | None = None
    checkpoint_id: str | None = None
    branches: bool = False
    identity: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def config(self, ns: str, checkpoint_id: str, **more: Any) -> RunnableConfig:
        """The configuration that means a checkpoint of this thread."""
        place = {"thread_id": self.thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        return {"configurable": {**place, **self.identity, **more}}

    def loaded(self, ns: str, checkpoint_id: str, *, is_latest: bool) -> RunnableConfig:
        """The same for what is read: LangGraph hands it back with each put of a run that goes on from there."""
        return self.config(ns, checkpoint_id, **({_BRANCH: None} if is_latest else {_BRANCH: ns}))


def place_of(config: RunnableConfig, bound: Owner | None) -> Place:
    """What `config` means. Raises `InvalidInput`, and `PermissionDenied` for another owner than `bound`."""
    found: Mapping[str, Any] = config.get("configurable", {})
    owner, identity = _owner(found, bound)
    if found.get("thread_id") is None:
        raise InvalidInput("the configuration names no thread_id", details={"field": "thread_id"})
    thread_id = str(found["thread_id"])
    ns: str | None = found.get("checkpoint_ns")
    return Place(
        owner=owner,
        thread_id=thread_id,
        session_id=session_name(thread_id),
        ns=ns or "",
        listed_ns=ns,
        checkpoint_id=found.get("checkpoint_id") or None,
        branches=found.get(_BRANCH) == (ns or ""),
        identity=identity,
    )


def thread_of(thread_id: str, owner: Owner) -> Place:
    """All of a thread."""
    return Place(owner=owner, thread_id=thread_id, session_id=session_name(thread_id))


def _owner(found: Mapping[str, Any], bound: Owner | None) -> tuple[Owner, Mapping[str, Any]]:
    identity = {key: found[key] for key in ("user_id", "tenant_id") if found.get(key) is not None}
    if bound is not None:
        if any(value != getattr(bound, key) for key, value in identity.items()):
            raise PermissionDenied("the configuration names another user or tenant than the one that this saver is for")
        return bound, identity
    if "user_id" not in identity:
        raise InvalidInput(
            "whose thread is it? Give LangGraphSaver an owner, or configurable a user_id", details={"field": "user_id"}
        )
    return Owner(tenant_id=identity.get("tenant_id"), user_id=identity["user_id"]), identity
