"""What a user can do wrong, each with one clear line: where, what, what was expected, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompressError(Exception):
    """A user's mistake. The command line prints its message, one line a mistake, and exits with 2."""

    exit_code = 2


class VerificationError(CompressError):
    """The cut network does not compute what the masked one computes, and no freezing mends it."""

    exit_code = 1


class ExpectationError(CompressError):
    """A finished run misses what the recipe's `expect` asks for."""

    exit_code = 1


def nearest(word: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the valid word closest to `word`, or `"; one of: a, b"` when none is close."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; one of: {', '.join(words)}" if words else ""
