"""Finds code that `chord.provenance.digest` cannot follow, so that no edit of it could be seen.

    python -m chord.provenance.unfollowed

Refused are star imports, modules found by a computed name, attributes of definitions by a computed name, modules as
values, work that is done on import, and values of modules that functions change. Exit codes: 0 none, 1 some. A line
that ends in `# not followed: REASON` is let through: its reason says why no result of a job can depend on it.
"""

import ast
import sys
from collections.abc import Iterator
from typing import NamedTuple

from chord.provenance import digest

ALLOWED = "# not followed: "
RUNS_TEXT = {"__import__", "eval", "exec", "globals"}
BY_TEXT = {"getattr", "setattr", "delattr", "hasattr", "vars"}
CHANGES = {
    *("append", "add", "update", "setdefault", "pop", "popitem", "popleft", "appendleft", "clear", "extend", "insert"),
    *("remove", "discard", "sort", "reverse", "cache_clear"),
}


class Finding(NamedTuple):
    """A place in the sources, and what is wrong there."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        """`chord/x.py:7: found ..., expected ...`."""
        return f"{self.path}:{self.line}: {self.what}"


def main() -> int:
    """Prints a line for each place; gives the exit code."""
    found = unfollowed(digest.package_of(str(digest.PROJECT), "chord"))
    print("\n".join(map(str, found)) or "the code digest can follow all of chord/")
    return 1 if found else 0


def unfollowed(package: digest.Package) -> list[Finding]:
    """All such places in a package, by file and line."""
    found: list[Finding] = []
    for path, source in package.sources.items():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        reader, lines = _Reader(package, digest.read_module(name, path, source)), source.decode().splitlines()
        for statement in ast.parse(source).body:
            if not digest.is_for_types(statement):
                reader.read(statement)
        places = sorted({Finding(path, line, what) for line, what in reader.found})
        found += [one for one in places if ALLOWED not in lines[one.line - 1]]
    return found


class _Reader(digest.Describer):
    """Goes through a module as the digest does, and looks at what that cannot see."""

    def __init__(self, package: digest.Package, here: digest.Module) -> None:
        super().__init__(here)
        self.found: list[tuple[int, str]] = []
        self._all = package
        self._line = 1

    def read(self, statement: ast.stmt) -> None:
        """One statement at the top of the module."""
        if digest.works(statement) and not digest.is_program(statement):
            what = "found work that is done on import, expected it in a function or a value"
            self.found.append((statement.lineno, what))
        self.node(statement)

    def node(self, node: object) -> None:
        """Looks at a node in its scope, then goes on."""
        self._line = getattr(node, "lineno", self._line)
        self.found += [(self._line, what) for what in self._wrong(node)]
        super().node(node)

    def _written(self, full: str) -> None:
        at, rest = self._all.find(full)
        if at is not None and not at.name and rest[:1] != ["__name__"]:
            self.found.append((self._line, f"found module {at.module} as a value, expected a definition in it"))
        super()._written(full)

    def _wrong(self, node: object) -> Iterator[str]:
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                for one in names:
                    name = f"{module}.{one.name}" if module else one.name
                    if one.name == "*":
                        yield f"found a star import of {module}, expected names"
                    elif _finds_modules(name):
                        yield f"found {name}, which finds modules by a name, expected an import statement"
            case ast.Global(names=names):
                yield f"found global {', '.join(names)}, expected no state in a module"
            case ast.Attribute() if f"{digest.dotted_name(node)}.".startswith("sys.modules."):
                yield "found sys.modules, expected an import statement"
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                for point, _ in map(digest.entry_of, node.decorator_list):
                    if point and point not in self._here.bound:
                        yield f"found an entry of {point} from another module, expected it in this one"
            case ast.List(elts=items) | ast.Tuple(elts=items):
                for flag, module in zip(items, items[1:], strict=False):
                    if digest.texts([flag]) == ["-m"] and any(
                        one.startswith(f"{self._package}.") for one in digest.texts([module])
                    ):
                        yield "found the name of a module after -m, expected `module.__name__`"
            case ast.Call():
                yield from self._wrong_in_call(node)
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                for target in targets:
                    yield from self._wrong_in_target(target)
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                yield from self._wrong_in_target(target)
            case _:
                pass

    def _wrong_in_call(self, node: ast.Call) -> Iterator[str]:
        owner: ast.expr = node
        match node.func:
            case ast.Name(id=name) if self.scope_of(name) is None:
                if name in RUNS_TEXT:
                    yield f"found {name}, whose text nobody can follow, expected code"
                if name in BY_TEXT and node.args and self._is_definition(node.args[0]):
                    yield f"found {name} on a definition, expected its attribute by name"
            case ast.Attribute(value=value, attr=name):
                if name in CHANGES and self._is_value(value):
                    yield f"found .{name}() on a value of a module, expected no state in a module"
                owner = value if name == "entry" else node
            case _:
                pass
        if digest.dotted_name(owner) in self._here.bound and not digest.texts(node.args[:1]):
            yield "found an entry whose name is computed, expected a text"

    def _wrong_in_target(self, target: ast.expr) -> Iterator[str]:
        if isinstance(target, ast.Tuple | ast.List):
            for one in target.elts:
                yield from self._wrong_in_target(one)
        elif isinstance(target, ast.Attribute | ast.Subscript) and self._is_definition(_root(target)):
            yield "found a change of a definition from outside, expected no state in a module"

    def _is_definition(self, node: ast.expr) -> bool:
        """Whether an expression is a module or a definition of the package, or an attribute of one."""
        full = self.full_name(node)
        return full is not None and self._all.find(full)[0] is not None

    def _is_value(self, node: ast.expr) -> bool:
        """Whether an expression is what an assignment at the top of a module gave to a name."""
        at, rest = self._all.find(self.full_name(node) or "")
        here = self._all.module(at.module) if at and at.name and not rest else None
        if at is None or here is None:
            return False
        tree = ast.walk(ast.parse(self._all.sources[here.path]))
        return at.name not in {one.name for one in tree if isinstance(one, digest.DEFINING)}


def _finds_modules(name: str) -> bool:
    """Whether what is imported under this full name can find or load modules by a name."""
    first, *rest = name.split(".")
    if first != "importlib":
        return first in ("runpy", "pkgutil", "imp")
    return not (rest[:1] in (["metadata"], ["resources"]) or rest == ["util", "find_spec"])


def _root(node: ast.expr) -> ast.expr:
    """`a.b` of the targets `a.b.c`, `a.b[0]` and `a.b[0].c`."""
    while isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and not digest.dotted_name(node)):
        node = node.value
    return node.value if isinstance(node, ast.Attribute) else node


if __name__ == "__main__":
    sys.exit(main())
