"""Errors that a user can mend. A verb prints the message, without a traceback, and ends with exit code 2."""


class UserError(Exception):
    """Something the caller of a verb can mend; the message says what was found, what was expected, what to do."""


class ConfigError(UserError):
    """One or more things in `config/` that cannot be run; the message lists all of them, one a line."""


class RecordError(UserError):
    """A file that should hold records does not; the message names file, line, what was found and expected."""
