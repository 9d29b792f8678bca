"""How keys are made, so that no two things have the same one: what varies has its length in front of it."""

import re

from agent_runtime import ConfigurationError, CorruptRecord, Owner

_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NOBODY = b"-"


def check_prefix(prefix: str) -> bytes:
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"prefix is {prefix!r}, and must be 1 to 64 letters, digits and signs of _ . : -")
    return prefix.encode()


def part(text: str) -> bytes:
    """One text's bytes, which end where they say."""
    data = text.encode()
    return b"%d:%s" % (len(data), data)


def owner_part(owner: Owner) -> bytes:
    """One owner's bytes, and no other's; what follows them is told apart from them."""
    tenant = _NOBODY if owner.tenant_id is None else part(owner.tenant_id)
    return tenant + part(owner.user_id)


def owner_of(data: bytes) -> tuple[Owner, bytes]:
    """The owner, and what follows. Raises `CorruptRecord`."""
    try:
        tenant_id, rest = (None, data[1:]) if data.startswith(_NOBODY) else _text(data)
        user_id, rest = _text(rest)
    except ValueError as error:
        raise CorruptRecord("the name of an owner is damaged: it cannot be read") from error
    return Owner(tenant_id=tenant_id, user_id=user_id), rest


def _text(data: bytes) -> tuple[str, bytes]:
    length, _, rest = data.partition(b":")
    end = int(length)
    if not 0 <= end <= len(rest):
        raise ValueError(length)
    return rest[:end].decode(), rest[end:]
