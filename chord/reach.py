"""What the code digest of a job follows, said where the code stands: plug points, and what decides no result.

`chord.provenance.digest` reads these marks in the source; the code itself runs as if they were not there.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, cast

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")
Entry = TypeVar("Entry")
Marked = TypeVar("Marked", bound=Callable[..., Any])


class PlugPoint(Generic[T]):
    """Alternatives by name, of which a job uses those that its settings name.

    The digest of a job follows these entries and no others, so that a new one makes no result again. All entries of a
    plug point stand in its own module, each marked with `@POINT.entry("name")`.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def entry(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator: what it marks is the alternative called `name`."""

        def add(one: Entry) -> Entry:
            self._entries[name] = cast(T, one)
            return one

        return add

    def __getitem__(self, name: str) -> T:
        """The alternative called `name`. Raises ValueError, with the nearest name, where there is none."""
        if name in self._entries:
            return self._entries[name]
        import difflib

        near = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"`{near[0]}` (nearest) or " if near else ""
        raise ValueError(f"found {self.what} '{name}', expected {hint}one of: {', '.join(self._entries)}")

    @property
    def names(self) -> tuple[str, ...]:
        """All alternatives, in the order in which they stand in the module."""
        return tuple(self._entries)


class OneOf:
    """In an annotation: a record of one of the kinds that a plug point has, told apart by what stands under `key`."""

    def __init__(self, point: PlugPoint[Any], key: str) -> None:
        self.point, self.key = point, key

    def __get_pydantic_core_schema__(self, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """The schema of a union of all kinds."""
        from pydantic import Field

        kinds = tuple(self.point[name] for name in self.point.names)
        return handler.generate_schema(Annotated[Union[kinds], Field(discriminator=self.key)])  # noqa: UP007


def decides_nothing(why: str) -> Callable[[Marked], Marked]:
    """A decorator: no result depends on the function or class that it marks, for the reason `why`.

    The digest of a job follows neither it nor what a call gives to it.
    """
    assert why, "expected the reason"
    return lambda one: one
