"""Options of a command that are numbers: what is no number, or out of range, is told in one line, with exit code 2."""

import argparse
import math
from collections.abc import Sequence
from typing import Any


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
