"""Names within our stores for what LangGraph names: a thread's can be read back, the others are never long."""

import base64
import hashlib

from agent_runtime import InvalidInput

_PLAIN = "lg-"
_ENCODED = "lgb-"
_LONGEST = 128  # characters of a session's id
_IN_AN_ID = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def session_name(thread_id: str) -> str:
    """The id of the session that keeps the thread. Raises `InvalidInput` for an id that is empty or too long."""
    if _IN_AN_ID.issuperset(thread_id):
        name = _PLAIN + thread_id
    else:
        name = _ENCODED + base64.urlsafe_b64encode(_utf8(thread_id)).decode().rstrip("=")
    if not thread_id or len(name) > _LONGEST:
        raise InvalidInput(
            "a thread_id has 1–125 letters, digits, `_` and `-`, or up to 93 bytes of other text",
            details={"field": "thread_id"},
        )
    return name


def thread_name(session_id: str) -> str | None:
    """The id of the thread that the session keeps; `None` for one of something else."""
    if session_id.startswith(_PLAIN):
        return session_id.removeprefix(_PLAIN)
    if not session_id.startswith(_ENCODED):
        return None
    encoded = session_id.removeprefix(_ENCODED)
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        return None


def namespace_name(ns: str) -> str:
    """The name of a `NamespaceRecord`."""
    return f"n-{_digest(ns)}"


def checkpoint_names(ns: str) -> str:
    """What the names of the namespace's checkpoints begin with, and no other."""
    return f"c-{_digest(ns)}-"


def next_name(ns: str, parent: str) -> str:
    """The name of the one checkpoint that goes on from `parent`: two that want to are not both stored."""
    return checkpoint_names(ns) + _digest("next", parent)


def first_name(ns: str) -> str:
    """The name of the checkpoint that begins the namespace: two that want to are not both stored."""
    return checkpoint_names(ns) + _digest("first")


def branch_name(ns: str, checkpoint_id: str) -> str:
    """The name of a checkpoint that may stand beside others."""
    return checkpoint_names(ns) + _digest("branch", checkpoint_id)


def writes_name(ns: str, checkpoint_id: str, number: int) -> str:
    """The name of the record of the checkpoint's writes with this number, from 0."""
    return f"w-{_digest(ns, checkpoint_id)}-{number}"


def _digest(*parts: str) -> str:
    """160 bits, one for each sequence of texts."""
    whole = hashlib.sha256()
    for part in parts:
        data = _utf8(part)
        whole.update(b"%d:" % len(data) + data)
    return whole.hexdigest()[:40]


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the id of a thread, namespace or checkpoint is not Unicode text") from error
