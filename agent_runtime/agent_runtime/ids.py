"""Names for runs, events and sessions, all within `[A-Za-z0-9_-]{1,128}`."""

import random
import secrets
import time

# A generator of our own: an application that seeds `random` gets the numbers that it would get without us.
_random_bits = random.Random().getrandbits


def new_id() -> str:
    """32 hexadecimal digits, unique, that sort by the time they were made. Can be guessed: never use one as a secret."""
    return f"{time.time_ns():016x}{_random_bits(64):016x}"


def new_secret_id() -> str:
    """32 hexadecimal digits that nobody can guess (128 bits from the operating system)."""
    return secrets.token_hex(16)
