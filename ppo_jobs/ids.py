"""Identifiers that sort by the time they were made."""

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: ascending in ASCII, without letters that read alike."""
_RANDOM_BITS = 64
_CHARACTERS = 26

_lock = threading.Lock()
_newest_stamp = 0


def new_id(prefix: str) -> str:
    """`prefix_` and 26 characters: 64 bits of nanoseconds since 1970, then 64 random bits.

    Within one process each identifier sorts after every earlier one.
    """
    global _newest_stamp
    with _lock:
        _newest_stamp = max(time.time_ns(), _newest_stamp + 1)
        stamp = _newest_stamp
    return f"{prefix}_{_base32(stamp << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))}"


def new_job_id() -> str:
    return new_id("job")


def new_checkpoint_id() -> str:
    return new_id("ckpt")


def new_evaluation_id() -> str:
    return new_id("eval")


def _base32(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (_CHARACTERS - 1), -1, -5))
