"""Errors that a user can mend. A verb prints the message, without a traceback, and ends with exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the caller of a verb can mend; the message says what was found, what was expected, what to do."""


class ConfigError(UserError):
    """One or more things in `config/` that cannot be run; the message lists all of them, one a line."""


class RecordError(UserError):
    """A file that should hold records does not; the message names file, line, what was found and expected."""


def expected(found: str, known: Iterable[object]) -> str:
    """What a name could have been: the nearest valid one first, then all of them."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    listed = ", ".join(names) if len(names) <= 80 else f"one of {len(names)}"
    return f"expected {f'`{near[0]}` (nearest) or ' if near else ''}one of: {listed or 'nothing, none is defined'}"
