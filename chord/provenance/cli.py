"""What every verb does on the command line: fails in one line, prints what any terminal shows, checks its numbers."""

import codecs
import errno
import io
import math
import os
import signal
import sys
import unicodedata
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from chord.errors import UserError

# --- verbs -------------------------------------------------------------------------------------

_DISK = {
    errno.ENOSPC: "found the disk full, expected room to write; free some space and run it again",
    errno.EFBIG: "found the limit on file sizes reached, expected room to write; raise it (ulimit -f) and retry",
    errno.EDQUOT: "found the disk quota used up, expected room to write; free some space and run it again",
    errno.EROFS: "found a read-only file system, expected one that can be written",
    errno.EACCES: "found no permission, expected to be allowed to read or write it",
}


class Terminated(SystemExit):
    """A signal asked the process to end; open folders are removed, the ledger and the lease are closed on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


def run_verb(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Run `main` as the program `name` and exit: 0 or what it returns; 2 and one line where the user can mend it."""
    settle_output()
    _end_in_order()
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except (OSError, UserError) as error:
        if isinstance(error, UserError):
            message = str(error) or "failed without a message"
        elif error.errno in _DISK:
            message = f"{error.filename or 'while writing'}: {_DISK[error.errno]}"
        else:
            raise
        for line in message.splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _end_in_order() -> None:
    """Make SIGTERM and SIGHUP raise `Terminated`; in a forked child they go on to end the process at once."""
    installed_by = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() != installed_by:
            os._exit(128 + number)
        signal.signal(number, signal.SIG_IGN)
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)


# --- output --------------------------------------------------------------------------------------

_SIGNS = """± +- × x · * ² ^2 − - – - — - … ... “ " ” " ‘ ' ’ ' ≤ <= ≥ >= ≈ ~ ∝ ~ → -> ← <- √ sqrt ∞ inf ✓ yes ✗ no
    µ mu ▁ _ ▂ . ▃ : ▄ - ▅ = ▆ + ▇ * █ # ━ = ╌ -"""  # the last ten draw the bars and curves of `chord watch`
SPELLED: dict[str, str] = dict(zip(_SIGNS.split()[::2], _SIGNS.split()[1::2], strict=True))
_ERRORS = "chord.provenance.cli"


def plain(text: str) -> str:
    """The text in ASCII: signs spelled out, Greek letters by name, other letters without accents, the rest escaped."""
    return text if text.isascii() else "".join(map(_spelled, text))


def settle_output() -> None:
    """From here on standard output and error never fail at a character; a plain terminal gets ASCII alone.

    Plain is one whose encoding lacks the character, `LC_ALL=C` (where Python would write UTF-8 all the same) unless
    PYTHONIOENCODING or PYTHONUTF8 says otherwise, and `TERM=dumb`.
    """
    codecs.register_error(_ERRORS, _in_place)
    named = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] or os.environ.get("PYTHONUTF8")
    is_c = os.environ.get("LC_ALL") in ("C", "POSIX") and not named
    is_plain = is_c or os.environ.get("TERM") == "dumb"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="ascii" if is_plain else None, errors=_ERRORS)


def _in_place(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


def _spelled(character: str) -> str:
    if character.isascii() or character in SPELLED:
        return SPELLED.get(character, character)
    name = unicodedata.name(character, "")
    if name.startswith("GREEK ") and " LETTER " in name:
        word = name.partition(" LETTER ")[2].partition(" ")[0]
        return word.capitalize() if " CAPITAL " in name else word.lower()
    letters = "".join(one for one in unicodedata.normalize("NFKD", character) if not unicodedata.combining(one))
    return letters if letters.isascii() else character.encode("ascii", "backslashreplace").decode()


# --- options -------------------------------------------------------------------------------------


class Number(Action):
    """An action of argparse that takes numbers of `kind`, at least `least` or, if that is None, above 0.

    What is no number, or out of range, ends the program with one line and exit code 2.
    """

    def __init__(self, *args: Any, kind: type[int] | type[float] = int, least: float | None = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind, self._least = kind, least

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Keep the number, or all of them where several may be given."""
        is_one = isinstance(values, str)
        setattr(namespace, self.dest, self._read(parser, values) if is_one else [self._read(parser, v) for v in values])

    def _read(self, parser: ArgumentParser, text: str) -> float:
        try:
            number = self._kind(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (number > 0 if self._least is None else number >= self._least):
            return number
        kind = "a whole number" if self._kind is int else "a number"
        bound = "above 0" if self._least is None else f"of at least {self._least:g}"
        # Not parser.error: the usage, many lines long, would hide the one that matters.
        parser.exit(2, f"{parser.prog}: {self.option_strings[0]}: found '{text}', expected {kind} {bound}\n")
