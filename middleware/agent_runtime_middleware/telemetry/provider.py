"""Whether there is anybody to tell."""

from typing import Final

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for a provider: a look takes a microsecond, and one that cannot be loaded logs a traceback."""


def records(provider: object, api: type) -> bool:
    """Whether this is more than one of the API's own providers, which stand in where no SDK is set and do nothing.

    `api` is the API's abstract provider. One of the stand-ins is private, so they are known by where they are from.
    """
    module, home = type(provider).__module__, api.__module__
    return module != home and not module.startswith(f"{home}.")
