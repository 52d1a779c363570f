"""What every verb does on the command line: output that any terminal can show, numbers within their range."""

import argparse
import codecs
import io
import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

# --- plain ---------------------------------------------------------------------------------------

# What is printed, readable in any terminal: in the place of a character that it cannot show stands one that it can.
#
# Knows no message and no command; every program of the project calls `settle_output` before it prints.

SPELLED = {
    "±": "+-",
    "×": "x",
    "·": "*",
    "²": "^2",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "∝": "~",
    "→": "->",
    "←": "<-",
    "√": "sqrt",
    "∞": "inf",
    "✓": "yes",
    "✗": "no",
    "µ": "mu",  # the sign for micro, which config/ uses
    # bars and curves of `chord watch`, each as wide as it is
    **dict(zip("▁▂▃▄▅▆▇█━╌", "_.:-=+*#=-", strict=True)),
}
_ERRORS = "chord.provenance.cli"


def plain(text: str) -> str:
    """The text in ASCII: signs spelled out, Greek letters by name, other letters without accents, the rest escaped."""
    return (
        text
        if text.isascii()
        else "".join(character if character.isascii() else _spelled(character) for character in text)
    )


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
    if character in SPELLED:
        return SPELLED[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK ") and " LETTER " in name:
        word = name.partition(" LETTER ")[2].partition(" ")[0]
        return word.capitalize() if " CAPITAL " in name else word.lower()
    letters = "".join(one for one in unicodedata.normalize("NFKD", character) if not unicodedata.combining(one))
    return letters if letters.isascii() else character.encode("ascii", "backslashreplace").decode()


# --- options -------------------------------------------------------------------------------------

# Options of a command that are numbers: what is no number, or out of range, is told in one line, with exit code 2.


class Number(argparse.Action):
    """An action of argparse that takes numbers of `kind`, at least `least` or, if that is None, above 0."""

    def __init__(self, *args: Any, kind: type[int] | type[float] = int, least: float | None = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind, self._least = kind, least

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the number, or all of them where several may be given."""
        given = [values] if isinstance(values, str) else list(values or ())
        numbers = [self._read(parser, text) for text in given]
        setattr(namespace, self.dest, numbers[0] if isinstance(values, str) else numbers)

    def _read(self, parser: argparse.ArgumentParser, text: str) -> float:
        try:
            number = self._kind(text)
            fits = math.isfinite(number) and (number > 0 if self._least is None else number >= self._least)
        except ValueError:
            fits, number = False, 0
        if not fits:
            kind = "a whole number" if self._kind is int else "a number"
            bound = "above 0" if self._least is None else f"of at least {self._least:g}"
            # Not parser.error: the usage, many lines long, would hide the one that matters.
            parser.exit(2, f"{parser.prog}: {self.option_strings[0]}: found '{text}', expected {kind} {bound}\n")
        return number
