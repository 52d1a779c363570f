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

from chord.provenance.digest import (
    DEFINING,
    PROJECT,
    Describer,
    Module,
    Package,
    dotted_name,
    entry_of,
    is_for_types,
    is_program,
    package_of,
    read_module,
    texts,
    works,
)

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
    found = unfollowed(package_of(str(PROJECT), "chord"))
    print("\n".join(map(str, found)) or "the code digest can follow all of chord/")
    return 1 if found else 0


def unfollowed(package: Package) -> list[Finding]:
    """All such places in a package, by file and line."""
    found: list[Finding] = []
    for path, source in package.files.items():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        here, lines = read_module(name, path, source), source.decode().splitlines()
        places = {Finding(path, line, what) for line, what in _in_module(package, here, ast.parse(source))}
        found += sorted(one for one in places if ALLOWED not in lines[one.line - 1])
    return found


def _in_module(package: Package, here: Module, tree: ast.Module) -> Iterator[tuple[int, str]]:
    reader = _Reader(package, here)
    for statement in tree.body:
        if is_for_types(statement):
            continue
        if works(statement) and not is_program(statement):
            yield statement.lineno, "found work that is done on import, expected it in a function or a value"
        reader.read(statement)
    yield from reader.found


class _Reader(Describer):
    """Goes through a module as the digest does, and looks at what that cannot see."""

    def __init__(self, package: Package, here: Module) -> None:
        super().__init__(here)
        self.found: list[tuple[int, str]] = []
        self._all = package
        self._line = 1

    def read(self, statement: ast.stmt) -> None:
        """One statement at the top of the module."""
        for node in ast.walk(statement):
            self._look(node)
        self.node(statement)

    def node(self, node: object) -> None:
        """Looks at what the names in scope decide, then goes on."""
        if isinstance(node, ast.expr):
            self._line = getattr(node, "lineno", self._line)
        if isinstance(node, ast.Call):
            self._look_at_call(node)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            for target in node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]:
                self._look_at_target(target)
        super().node(node)

    def _written(self, full: str) -> None:
        at, used = self._all.find(full)
        rest = full.split(".")[used:]
        if self._is_ours(full) and at is not None and not at.name and rest[:1] != ["__name__"]:
            self.found.append((self._line, f"found module {at.module} as a value, expected a definition in it"))
        super()._written(full)

    def _say(self, node: ast.AST, what: str) -> None:
        self.found.append((getattr(node, "lineno", 1), what))

    def _look(self, node: ast.AST) -> None:
        if isinstance(node, ast.ImportFrom) and any(one.name == "*" for one in node.names):
            self._say(node, f"found a star import of {node.module}, expected names")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [f"{module}.{one.name}" if module else one.name for one in node.names]
            if by_name := [name for name in names if _finds_modules(name)]:
                self._say(node, f"found {by_name[0]}, which finds modules by a name, expected an import statement")
        elif isinstance(node, ast.Global):
            self._say(node, f"found global {', '.join(node.names)}, expected no state in a module")
        elif isinstance(node, ast.Attribute) and node.attr == "modules" and dotted_name(node) == "sys.modules":
            self._say(node, "found sys.modules, expected an import statement")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                point = entry_of(decorator)[0]
                if point and point not in self._here.bound:
                    self._say(node, f"found an entry of {point} from another module, expected it in this one")
        elif isinstance(node, ast.List | ast.Tuple):
            items = node.elts
            for flag, module in zip(items, items[1:], strict=False):
                if texts([flag]) == ["-m"] and any(one.startswith(f"{self._package}.") for one in texts([module])):
                    self._say(node, "found the name of a module after -m, expected `module.__name__`")

    def _look_at_call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and self._local(function.id) is None:
            if function.id in RUNS_TEXT:
                self._say(node, f"found {function.id}, whose text nobody can follow, expected code")
            if function.id in BY_TEXT and node.args and self._is_definition(node.args[0]):
                self._say(node, f"found {function.id} on a definition, expected its attribute by name")
        if isinstance(function, ast.Attribute) and function.attr in CHANGES and self._is_value(function.value):
            self._say(node, f"found .{function.attr}() on a value of a module, expected no state in a module")
        owner = function.value if isinstance(function, ast.Attribute) and function.attr == "entry" else node
        if dotted_name(owner) in self._here.bound and not texts(node.args[:1]):
            self._say(node, "found an entry whose name is computed, expected a text")

    def _look_at_target(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for one in target.elts:
                self._look_at_target(one)
        elif isinstance(target, ast.Attribute | ast.Subscript) and self._is_definition(_root(target)):
            self._say(target, "found a change of a definition from outside, expected no state in a module")

    def _is_definition(self, node: ast.expr) -> bool:
        """Whether an expression is a module or a definition of the package, or an attribute of one."""
        full = self._full_name(node)
        return full is not None and self._all.find(full)[0] is not None

    def _is_value(self, node: ast.expr) -> bool:
        """Whether an expression is what an assignment at the top of a module gave to a name."""
        full = self._full_name(node)
        at, used = self._all.find(full) if full else (None, 0)
        here = self._all.module(at.module) if at else None
        if full is None or at is None or here is None or used != len(full.split(".")) or not at.name:
            return False
        return not any(
            isinstance(one, DEFINING)
            for one in ast.walk(ast.parse(self._all.files[here.path]))
            if getattr(one, "name", "") == at.name
        )


def _finds_modules(name: str) -> bool:
    """Whether what is imported under this full name can find or load modules by a name."""
    first, *rest = name.split(".")
    if first != "importlib":
        return first in ("runpy", "pkgutil", "imp")
    return not (rest[:1] in (["metadata"], ["resources"]) or rest == ["util", "find_spec"])


def _root(node: ast.expr) -> ast.expr:
    """`a.b` of the targets `a.b.c`, `a.b[0]` and `a.b[0].c`."""
    while isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and not dotted_name(node)):
        node = node.value
    return node.value if isinstance(node, ast.Attribute) else node


if __name__ == "__main__":
    sys.exit(main())
