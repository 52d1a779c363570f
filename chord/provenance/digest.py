"""What a job's code means, as a hash: the definitions that the job can reach, by content.

A definition is what a statement at the top of a module gives a name: a function, a class, a value. Its content is its
syntax tree; where it uses another definition, the tree holds that one's content in the place of a name. So names of
modules and of definitions, the order of definitions and the way in which something is imported do not count, nor do
comments, docstrings, formatting, annotations that Python does not evaluate for a value, the help of a command line, the
descriptions of fields and the words of errors. A class counts as a whole, with its bases, decorators and methods.

Of a `PlugPoint` only those entries count that the job uses; of what is marked `decides_nothing`, nothing does (both:
`chord.reach`). Other packages count by name; pins say which. Code that cannot be followed is refused by
`chord.provenance.unfollowed`, which `make lint` runs. A new version of Python can change a digest where its syntax tree
changes.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, cast

from chord import module_of
from chord.errors import UserError
from chord.provenance.files import write_atomically
from chord.reach import decides_nothing

PROJECT = Path(__file__).resolve().parents[2]
MAIN = "main"  # what a verb's module runs
WHOLE = "(all)"
FUNCTIONS = "functions"  # in Uses: definitions that the job reaches besides, by their full names
SHOWN_DIGITS = 8

# By plug point, the names of the entries that a job uses. A point that is not named is used as a whole.
Uses = Mapping[str, tuple[str, ...]]


class At(NamedTuple):
    """A definition: its module, and its name there; no name stands for all that the module is when it is run."""

    module: str
    name: str

    def __str__(self) -> str:
        """`chord.records.Problem`."""
        return f"{self.module}.{self.name}" if self.name else self.module


@dataclass(frozen=True)
class JobCode:
    """The code of a job: one digest that decides; and to say what changed, the names and contents of its definitions.

    Of each module a text, `NAME CONTENT NAME CONTENT ...`.
    """

    digest: str
    definitions: dict[str, str]


@dataclass(frozen=True)
class Shape:
    """The content of one definition without that of others, and which others it refers to, in order."""

    text: str
    refers: tuple[At, ...] = ()
    plug_point: str = ""


@decides_nothing("the digest is recorded")
def code_digest(verb: str, uses: Uses | None = None, root: Path | None = None) -> str:
    """The digest of `job_code`."""
    return job_code(verb, uses or {}, root).digest


@decides_nothing("the digest is recorded")
def job_code(verb: str, uses: Uses, root: Path | None = None, kept: Path | None = None) -> JobCode:
    """What `main` of a verb, `chord train`, or of a module can reach in a job that uses these entries.

    `root` is the folder that holds the package. Sources are read once per process: what is edited later in the same
    process is not seen. `kept`: see `package_of`. Raises UserError for a module or an entry that is not there, or that
    cannot be parsed.
    """
    named = tuple(sorted((name, tuple(some)) for name, some in uses.items()))
    return _job_code(verb, named, str(root or PROJECT), kept)


@cache
def _job_code(verb: str, uses: tuple[tuple[str, tuple[str, ...]], ...], folder: str, kept: Path | None) -> JobCode:
    module = module_of(verb)
    package = package_of(folder, module.partition(".")[0], kept)
    here = package.module(module)
    if here is None:
        raise UserError(f"{verb}: found no such module under {folder}, expected a file of the package")
    named = dict(uses)
    roots = [At(module, MAIN if MAIN in here.bound else "")]
    roots += [package.definition(name) for name in named.pop(FUNCTIONS, ())]
    job = _Job(package, named)
    digest = _hashed(*(job.digest(root) for root in roots))
    reached = sorted({at for root in roots for at in job.reached(root)})
    told: dict[str, list[str]] = {}
    for at in reached:
        told.setdefault(at.module, []).append(f"{at.name or WHOLE} {_hashed(package.shape(at).text)[:SHOWN_DIGITS]}")
    return JobCode(digest, {module: " ".join(definitions) for module, definitions in told.items()})


def contents(definitions: Mapping[str, str]) -> dict[str, str]:
    """The content of each definition of a JobCode, by its full name."""
    words = {module: text.split() for module, text in definitions.items()}
    return {
        f"{module}.{name}": content
        for module, some in words.items()
        for name, content in zip(some[::2], some[1::2], strict=True)
    }


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# --- one job -----------------------------------------------------------------------------------


class _Job:
    """Digests of definitions with all that they reach, where the job uses certain entries of plug points."""

    def __init__(self, package: "Package", uses: Uses) -> None:
        self._package, self._uses = package, uses
        self._digests: dict[At, str] = {}

    def digest(self, root: At) -> str:
        """The content of a definition and of all that it reaches.

        Definitions that reach each other have no first one: each begins with its own content and takes in that of the
        others as often as there are definitions in the circle.
        """
        for circle in self._circles(root):
            now = {at: self._package.shape(at).text for at in circle}
            is_circle = len(circle) > 1 or circle[0] in self._next(circle[0])
            for _ in range(len(circle) + 1 if is_circle else 1):
                known = self._digests | now if is_circle else self._digests
                now = {at: self._with(at, [known[one] for one in self._next(at)]) for at in circle}
            self._digests |= now
        return self._digests[root]

    def reached(self, root: At) -> set[At]:
        """The definition and all that it reaches."""
        found, waiting = {root}, [root]
        while waiting:
            new = set(self._next(waiting.pop())) - found
            found |= new
            waiting += new
        return found

    def _next(self, at: At) -> Sequence[At]:
        shape = self._package.shape(at)
        return [one for _, one in self._entries(at)] if shape.plug_point else shape.refers

    def _entries(self, at: At) -> list[tuple[str, At]]:
        """The entries of a plug point that count."""
        what, entries = self._package.shape(at).plug_point, self._package.entries(at)
        names = self._uses.get(what, tuple(entries))
        if lacking := sorted(set(names) - entries.keys()):
            raise UserError(f"{at}: found no {what} '{lacking[0]}', expected one of: {', '.join(entries)}")
        return [(name, entries[name]) for name in sorted(set(names))]

    def _with(self, at: At, others: list[str]) -> str:
        shape = self._package.shape(at)
        names = [name for name, _ in self._entries(at)] if shape.plug_point else []
        return _hashed(shape.text, *names, *others)

    def _circles(self, root: At) -> Iterator[list[At]]:
        """The definitions that `root` reaches and that have no digest yet, each circle after those that it refers to.

        The algorithm is Tarjan's.
        """
        order: dict[At, int] = {}
        lowest: dict[At, int] = {}
        path: list[At] = []
        on_path: set[At] = set()
        work: list[tuple[At, Iterator[At]]] = []

        def enter(at: At) -> None:
            order[at] = lowest[at] = len(order)
            path.append(at)
            on_path.add(at)
            work.append((at, iter(self._next(at))))

        if root not in self._digests:
            enter(root)
        while work:
            at, others = work[-1]
            other = next((one for one in others if one not in self._digests), None)
            if other is None:
                work.pop()
                if work:
                    above = work[-1][0]
                    lowest[above] = min(lowest[above], lowest[at])
                if lowest[at] == order[at]:
                    start = path.index(at)
                    circle, path[start:] = path[start:], []
                    on_path.difference_update(circle)
                    yield circle
            elif other not in order:
                enter(other)
            elif other in on_path:
                lowest[at] = min(lowest[at], order[other])


# --- the package -------------------------------------------------------------------------------


# A content that is not yet resolved: texts, and lists [kind, ...] for what only the whole package can tell:
# ["refers", name] for a name of the package, ["calls", name, content] for a call of it, whose content is that of the
# whole call, and ["types", content] for an annotation, of which only what it refers to counts.
Content = list[Any]


@dataclass
class Module:
    """One source file, by what its statements give names to; contents are described when they are asked for."""

    name: str
    path: str
    has_walrus: bool = False  # else no expression binds a name
    bound: dict[str, Content | list[ast.stmt]] = field(default_factory=dict[str, Content | list[ast.stmt]])
    imported: dict[str, str] = field(default_factory=dict[str, str])
    marks: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # of names, the decorators called
    points: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # of names, what made them and its text
    entries: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])  # of points, names by entry
    effects: Content = field(default_factory=list[Any])  # what runs when it is imported
    when_run: Content = field(default_factory=list[Any])  # what runs when it is the program


@cache
def package_of(folder: str, name: str, kept: Path | None = None) -> "Package":
    """The package of that name in a folder, read once per process.

    `kept` is a file in which contents of modules are kept by their sources, so that a module is parsed once for many
    processes. It is no evidence: who audits does without.
    """
    files = sorted(Path(folder, name).rglob("*.py"))
    return Package(name, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, kept)


class Package:
    """The modules of one package; `sources` by their paths below the folder that holds it. `kept`: see `package_of`."""

    def __init__(self, name: str, sources: Mapping[str, bytes], kept: Path | None = None) -> None:
        self.name, self._sources, self._kept = name, sources, kept
        self._known = _read_kept(kept) if kept else {}
        self._modules: dict[str, Module | None] = {}
        self._shapes: dict[At, Shape] = {}
        self._outside: dict[At, bool] = {}
        self._found: dict[str, tuple[At | None, int]] = {}

    @property
    def files(self) -> Mapping[str, bytes]:
        """All sources, by path."""
        return self._sources

    def module(self, name: str) -> Module | None:
        """The module of that name; None where there is none. Raises UserError for one that cannot be parsed."""
        if name not in self._modules:
            base = name.replace(".", "/")
            path = next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in self._sources), None)
            known = self._known.get(_key(name, self._sources[path])) if path else None
            read = None if path is None or known else read_module(name, path, self._sources[path])
            self._modules[name] = Module(**known) if known else read
        return self._modules[name]

    def keep(self) -> None:
        """Writes down the contents of all modules that were read, if any was new. No room to do so is no error."""
        read = [here for here in self._modules.values() if here]
        now = {_key(here.name, self._sources[here.path]): here for here in read}
        if self._kept is None or now.keys() == self._known.keys():
            return
        for here in read:
            for name in here.bound:
                content_of(here, name)
        with suppress(OSError):
            write_atomically(self._kept, json.dumps({key: vars(here) for key, here in now.items()}))

    def definition(self, name: str) -> At:
        """The definition of that full name. Raises UserError where there is none."""
        at, used = self.find(name)
        if at is None or used != len(name.split(".")):
            raise UserError(f"{name}: found no such definition, expected one of the package {self.name}")
        return at

    def find(self, dotted: str) -> tuple[At | None, int]:
        """The definition or module that a dotted name begins with, and how many parts of the name that takes.

        None for a name that nothing in the package explains.
        """
        if dotted not in self._found:
            self._found[dotted] = None, 1  # a name that is imported in a circle is nobody's
            self._found[dotted] = self._find(dotted.split("."))
        return self._found[dotted]

    def _find(self, parts: list[str]) -> tuple[At | None, int]:
        module = parts[0]
        if module != self.name:
            return None, 0
        for used, part in enumerate(parts[1:], 1):
            here = self.module(module)
            if here is not None and part in here.bound:
                return At(module, part), used + 1
            if here is not None and part in here.imported:
                target = here.imported[part]
                at, there = self.find(".".join([target, *parts[used + 1 :]]))
                return at, there - len(target.split(".")) + used + 1
            if self.module(f"{module}.{part}") is None:
                return (At(module, "") if part == "__name__" else None), used
            module = f"{module}.{part}"
        return At(module, ""), len(parts)

    def is_outside(self, at: At) -> bool:
        """Whether the definition is marked as one that decides nothing."""
        if at not in self._outside:
            here = self.module(at.module)
            marks = here.marks.get(at.name, []) if here else []
            self._outside[at] = any(self._is_mark(at.module, mark, "decides_nothing") for mark in marks)
        return self._outside[at]

    def _is_mark(self, module: str, dotted: str, name: str) -> bool:
        """Whether a name, as a module writes it, is that of a mark."""
        here = self.module(module)
        first, _, rest = dotted.partition(".")
        full = f"{module}.{dotted}" if here is None or first not in here.imported else here.imported[first]
        at, _ = self.find(f"{full}.{rest}" if rest and full != f"{module}.{dotted}" else full)
        return at is not None and at.name == name and at.module.rpartition(".")[2] == "reach"

    def entries(self, at: At) -> dict[str, At]:
        """The entries of a plug point, which stand in its own module."""
        here = self.module(at.module)
        return {name: At(at.module, bound) for name, bound in here.entries.get(at.name, {}).items()} if here else {}

    def shape(self, at: At) -> Shape:
        """The content of one definition."""
        if at not in self._shapes:
            self._shapes[at] = self._shape(at)
        return self._shapes[at]

    def _shape(self, at: At) -> Shape:
        here = self.module(at.module)
        assert here is not None, f"{at} was found in no module"
        if self.is_outside(at):
            return Shape("outside")
        made = here.points.get(at.name)
        if made and self._is_mark(at.module, made[0], "PlugPoint"):
            return Shape(f"plug point {made[1]}", (), made[1])
        text: list[str] = []
        refers: list[At] = [] if at.name else [At(at.module, name) for name in here.bound]
        parts = [content_of(here, at.name)] if at.name else [["module"], here.when_run]
        for part in (*parts, here.effects):  # importing the module runs its effects
            self._resolve(part, text, refers)
        return Shape("".join(text), tuple(refers))

    def _resolve(self, content: Content, text: list[str], refers: list[At]) -> None:
        """Appends a content, with what only the whole package can tell."""
        for part in content:
            if isinstance(part, str):
                text.append(part)
            elif part[0] == "refers":
                self._refer(part[1], text, refers)
            elif part[0] == "types":
                named: list[str] = []
                self._resolve(part[1], named, refers)
                text += [one for one in named if one == REFERS]
            else:
                at, _ = self.find(part[1])
                if at is not None and self.is_outside(at):
                    text.append(OUTSIDE)
                else:
                    self._resolve(part[2], text, refers)

    def _refer(self, dotted: str, text: list[str], refers: list[At]) -> None:
        at, used = self.find(dotted)
        rest = "".join(f".{one};" for one in dotted.split(".")[used:])
        if at is None:
            text.append(f"unknown{rest}")
        elif self.is_outside(at):
            text.append(OUTSIDE)
        else:
            text += [REFERS, rest]
            refers.append(at)


def _read_kept(file: Path) -> dict[str, dict[str, Any]]:
    """What `Package.keep` wrote; nothing where it is missing or damaged."""
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError, TypeError):
        return {}


@cache
def _version() -> bytes:
    """What else decides how a module is read: this code, and Python's syntax tree."""
    return Path(__file__).read_bytes() + str(sys.version_info[:2]).encode()


def _key(name: str, source: bytes) -> str:
    """Under which the content of a module is kept."""
    return hashlib.sha256(b"\0".join([_version(), name.encode(), source])).hexdigest()


def content_of(here: Module, name: str) -> Content:
    """What a module gives to a name."""
    given = here.bound[name]
    if given and isinstance(given[0], ast.stmt):
        described = Describer(here)
        for statement in given:
            described.definition(statement, name)
        given = here.bound[name] = _joined(described.out)
    return given


def _joined(content: Content) -> Content:
    """The same with texts that follow each other in one."""
    found: Content = []
    for is_text, some in groupby(content, key=lambda part: isinstance(part, str)):
        parts = list(some)
        found += (
            ["".join(parts)]
            if is_text
            else [[*part[:-1], _joined(part[-1])] if len(part) > 2 else part for part in parts]
        )
    return found


def read_module(name: str, path: str, source: bytes) -> Module:
    """The module in a file. Raises UserError for one that cannot be parsed."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        place, why = f"line {error.lineno}: " if error.lineno else "", error.msg
    except ValueError as error:
        place, why = "", str(error)
    else:
        here = Module(name, path, b":=" in source)
        for statement in tree.body:
            _sort_in(here, statement)
        effects, when_run = (Describer(here), here.effects), (Describer(here), here.when_run)
        for describer, statements in (effects, when_run):
            for statement in statements:
                describer.node(statement)
        here.effects, here.when_run = effects[0].out, when_run[0].out
        return here
    raise UserError(f"{path}: {place}found code that Python cannot parse ({why}), expected a module")


def _sort_in(here: Module, statement: ast.stmt) -> None:
    if is_for_types(statement):
        for other in cast(ast.If, statement).orelse:
            _sort_in(here, other)
        return
    if is_program(statement):
        here.when_run.append(statement)
        return
    if works(statement):
        here.effects.append(statement)
    for name, imported in names_bound([statement], here).items():
        if imported is None:
            here.bound.setdefault(name, []).append(statement)
        else:
            here.imported.setdefault(name, imported)
    if isinstance(statement, DEFINING):
        for one in statement.decorator_list:
            point, entry = entry_of(one)
            if point:
                here.entries.setdefault(point, {})[entry] = statement.name
            elif isinstance(one, ast.Call) and (mark := dotted_name(one.func)):
                here.marks.setdefault(statement.name, []).append(mark)
    elif isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Call):
        made = statement.value.func
        maker = dotted_name(made.value if isinstance(made, ast.Subscript) else made)  # PlugPoint[Grader](...)
        what = texts(statement.value.args[:1])
        if maker and what:
            here.points |= {one: [maker, what[0]] for one in names_bound([statement], here)}


def is_for_types(statement: ast.stmt) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, which Python skips."""
    return isinstance(statement, ast.If) and last_name(statement.test) == "TYPE_CHECKING"


def is_program(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and "__name__" in {last_name(one) for one in ast.walk(statement.test)}


def works(statement: ast.stmt) -> bool:
    """Whether a statement does more than give meanings to names."""
    if isinstance(statement, ast.If | ast.Try):
        parts = [*statement.body, *statement.orelse]
        if isinstance(statement, ast.Try):
            parts += [*statement.finalbody, *(one for handler in statement.handlers for one in handler.body)]
        return any(map(works, parts))
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return any(isinstance(one, ast.Attribute | ast.Subscript) for target in targets for one in ast.walk(target))
    defines = isinstance(statement, (*DEFINING, ast.Import, ast.ImportFrom, ast.Pass))
    return not defines and not is_text(statement)


# --- names -------------------------------------------------------------------------------------

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINING = (*FUNCTION_NODES, ast.ClassDef)


def names_bound(nodes: Iterable[ast.AST], here: Module) -> dict[str, str | None]:
    """The names that statements bind in their own scope: None, or for an import the dotted name of what it brings."""
    found: dict[str, str | None] = {}
    elsewhere: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, DEFINING):
            found[node.name] = None
            waiting += node.decorator_list
        elif isinstance(node, ast.Import):
            found |= {(one.asname or one.name.partition(".")[0]): _brought(one) for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*_parents(here, node.level), *([node.module] if node.module else [])])
            found |= {one.asname or one.name: f"{base}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere |= {*node.names}
        elif isinstance(node, COMPREHENSIONS):
            found |= {one.target.id: None for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
        elif not isinstance(node, ast.Lambda):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                found[node.id] = None
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                found[node.name] = None
            elif isinstance(node, ast.MatchMapping) and node.rest:
                found[node.rest] = None
            waiting += [one for one in ast.iter_child_nodes(node) if here.has_walrus or not _is_value(one)]
    return {name: imported for name, imported in found.items() if name not in elsewhere}


def _is_value(node: ast.AST) -> bool:
    """Whether a node is an expression that is read, not written to."""
    return isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", None), ast.Load | None)


def _brought(one: ast.alias) -> str:
    return one.name if one.asname else one.name.partition(".")[0]


def _parents(here: Module, level: int) -> list[str]:
    """Where a relative import of `level` dots starts; nothing for an absolute one."""
    parts = here.name.split(".") if here.path.endswith("__init__.py") else here.name.split(".")[:-1]
    return parts[: len(parts) - level + 1] if level else []


def last_name(node: ast.AST) -> str:
    """`c` of the expressions `c` and `a.b.c`."""
    return getattr(node, "attr", getattr(node, "id", ""))


def dotted_name(node: ast.AST) -> str | None:
    """`a.b.c` of such an expression; None for another."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def entry_of(decorator: ast.expr) -> tuple[str, str]:
    """The plug point and the name of `@POINT.entry("name")`; two empty texts for another decorator."""
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)):
        return "", ""
    point, name = decorator.func.value, texts(decorator.args[:1])
    return (point.id, name[0]) if decorator.func.attr == "entry" and isinstance(point, ast.Name) and name else ("", "")


def texts(nodes: Iterable[ast.AST]) -> list[str]:
    """Those of the expressions that are a text."""
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a text and no more, as a docstring is."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# --- content -----------------------------------------------------------------------------------

# Keywords that explain, by the function that takes them; a function of any object where it has no dot.
EXPLAINS = {
    "pydantic.Field": {"description", "title", "examples"},
    "argparse.ArgumentParser": {"description", "epilog"},
    "add_argument": {"help", "metavar"},
}
REFERS, OUTSIDE = "->;", "outside;"  # stand where a definition refers to another, or to one that decides nothing
# Base classes and decorators of classes whose annotations say no more than the names of fields.
NAMES_ONLY = {"typing.NamedTuple", "typing.Protocol", "dataclasses.dataclass"}
IN_EVERY_CLASS = ("ClassVar", "InitVar", "KW_ONLY")  # but for these


@dataclass
class Scope:
    """Names that are bound in a function, or in the body of a class, which functions in it do not see."""

    names: dict[str, str | None]
    of_class: bool = False


class Describer:
    """Writes the content of statements of one module."""

    def __init__(self, here: Module) -> None:
        self.out: Content = []
        self._here, self._package = here, here.name.partition(".")[0]
        self._scopes: list[Scope] = []
        self._writers: dict[type, Callable[[Any], None]] = {
            list: self._several,
            ast.Constant: self._constant,
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.FunctionDef: self._function,
            ast.AsyncFunctionDef: self._function,
            ast.Lambda: self._function,
            ast.ClassDef: self._defining,
            **dict.fromkeys(COMPREHENSIONS, self._comprehension),
            ast.AnnAssign: self._annotated,
            ast.Raise: self._raise,
            ast.Call: self._call,
            ast.Expr: self._statement,
            **dict.fromkeys((ast.Import, ast.ImportFrom, ast.Pass), self._nothing),
        }

    def definition(self, statement: ast.stmt, name: str) -> None:
        """What one statement gives to `name`."""
        if isinstance(statement, DEFINING):
            self._defining(statement)
            return
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            value = _value_of(name, targets, statement.value)
            if value is not None:
                self.node(value)
                return
        self.out.append("one of ")
        names = sorted(names_bound([statement], self._here))
        self._scopes.append(Scope(dict.fromkeys(names)))
        self.node(statement)
        self._scopes.pop()
        self.out.append(f"{names.index(name)};")

    def node(self, node: object) -> None:
        """Appends a part of the tree."""
        write = self._writers.get(node.__class__)
        if write is not None:
            write(node)
        elif isinstance(node, ast.AST):
            self._plain(node)
        else:
            self.out.append(f"{node!r};")

    def _several(self, nodes: list[ast.AST]) -> None:
        self.out.append("[")
        for one in nodes:
            self.node(one)
        self.out.append("]")

    def _constant(self, node: ast.Constant) -> None:
        self.out.append(f"{type(node.value).__name__} {node.value!r};")

    def _statement(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # docstrings, and texts below a name
            self._plain(node)

    def _nothing(self, _node: ast.AST) -> None:
        """Imports are followed where what they bring is used."""

    def _plain(self, node: ast.AST) -> None:
        """Node type, set fields; empty ones are not written, so that a new field of a later Python changes nothing."""
        self.out.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in ("ctx", "type_comment", "type_params"):
                self.out.append(f"{name}=")
                self.node(value)
        self.out.append(")")

    def _defining(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if not isinstance(node, ast.ClassDef):
            self._function(node)
            return
        self._decorators(node)
        self.out.append("class(")
        self.node(node.bases)
        self.node(node.keywords)
        given = [*node.bases, *(one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)]
        names_only = any(self._full_name(one) in NAMES_ONLY for one in given)
        self._scopes.append(Scope(names_bound(node.body, self._here), of_class=True))
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                self._field(statement, names_only)
            elif isinstance(statement, DEFINING):
                self.out.append(f"{statement.name}=")
                self._defining(statement)
            else:
                self.node(statement)
        self._scopes.pop()
        self.out.append(")")

    def _field(self, node: ast.AnnAssign, names_only: bool) -> None:
        """A field of a class. Of its annotation those definitions count that a library makes values of.

        What else it says may refuse a value, and changes none.
        """
        self.out.append("field ")
        self.node(node.target)
        if not names_only:
            quoted = texts([node.annotation])
            outer, self.out = self.out, []
            self.node(ast.parse(quoted[0], mode="eval").body if quoted else node.annotation)
            self.out = [*outer, ["types", [part for part in self.out if not isinstance(part, str)]]]
        self.out += [
            f"{name};" for name in IN_EVERY_CLASS if name in {last_name(one) for one in ast.walk(node.annotation)}
        ]
        if node.value is not None:
            self.out.append("=")
            self.node(node.value)

    def _decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for one in node.decorator_list:
            if not entry_of(one)[0]:
                self.out.append("@")
                self.node(one)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        if not isinstance(node, ast.Lambda):
            self._decorators(node)
        given = node.args
        self.out.append(f"{type(node).__name__}(")
        self.node(given.defaults)
        self.node([one for one in given.kw_defaults if one is not None])
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        rest = [one for one in (given.vararg, given.kwarg) if one]
        needed = [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
        parts = ([one.arg for one in some] for some in (given.posonlyargs, given.args, given.kwonlyargs))
        self.out.append(f"{[*parts]} {needed} {given.vararg and given.vararg.arg} {given.kwarg and given.kwarg.arg};")
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        names = names_bound(body, self._here) | dict.fromkeys(one.arg for one in (*named, *rest))
        outer = self._scopes
        self._scopes = [*(one for one in outer if not one.of_class), Scope(names)]
        self.node(body)
        self._scopes = outer
        self.out.append(")")

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.node(node.generators[0].iter)  # the one part that the scope around it gives
        names: dict[str, str | None] = {
            one.id: None
            for generator in node.generators
            for one in ast.walk(generator.target)
            if isinstance(one, ast.Name)
        }
        self._scopes.append(Scope(names))
        self._plain(node)
        self._scopes.pop()

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._plain(ast.Assign(targets=[node.target], value=node.value))

    def _raise(self, node: ast.Raise) -> None:
        """The words of an error decide no result."""
        error = node.exc
        if isinstance(error, ast.Call):
            said = [one for one in error.args if not _is_wording(one)]
            error = ast.Call(func=error.func, args=said, keywords=error.keywords)
        self._plain(ast.Raise(exc=error, cause=node.cause))

    def _call(self, node: ast.Call) -> None:
        full = self._full_name(node.func)
        if full == "typing.cast" and len(node.args) == 2:
            self.node(node.args[1])
            return
        explains = EXPLAINS.get(full or "", EXPLAINS.get(last_name(node.func), set[str]()))
        keywords = [one for one in node.keywords if one.arg not in explains]
        call = ast.Call(func=node.func, args=node.args, keywords=keywords) if explains else node
        if full is None or not self._is_ours(full):
            self._plain(call)
            return
        outer, self.out = self.out, []
        self._plain(call)
        self.out = [*outer, ["calls", full, self.out]]

    def _name(self, node: ast.Name) -> None:
        full = self._full_name(node)
        if full is not None:
            self._written(full)
            return
        is_local = self._local(node.id) is not None
        self.out.append(f"{'local' if is_local else 'name'} {node.id};")
        in_class = is_local and self._scopes[-1].of_class and node.id in self._scopes[-1].names
        if in_class and isinstance(node.ctx, ast.Load) and node.id in self._here.bound:
            self._written(f"{self._here.name}.{node.id}")  # what it was before the class gave it a meaning

    def _attribute(self, node: ast.Attribute) -> None:
        full = self._full_name(node)
        if full is not None:
            self._written(full)
            return
        self.node(node.value)
        self.out.append(f".{node.attr};")

    def _written(self, full: str) -> None:
        if self._is_ours(full):
            self.out.append(["refers", full])
        else:
            first, *rest = full.split(".")
            self.out.append("".join([f"of {first};", *(f".{one};" for one in rest)]))

    def _is_ours(self, full: str) -> bool:
        return full.partition(".")[0] == self._package

    def _local(self, name: str) -> Scope | None:
        """The innermost scope that binds the name; None where it is one of the module or of Python."""
        for depth, one in enumerate(reversed(self._scopes)):
            if name in one.names and (not one.of_class or depth == 0):
                return one
        return None

    def _full_name(self, node: ast.expr) -> str | None:
        """The full name of an expression `a` or `a.b.c` that begins with an import or a definition; else None."""
        dotted = dotted_name(node)
        if dotted is None:
            return None
        first, _, rest = dotted.partition(".")
        scope = self._local(first)
        full = scope.names[first] if scope else self._here.imported.get(first)
        if full is None and not scope and first in self._here.bound:
            full = f"{self._here.name}.{first}"
        return f"{full}.{rest}" if full and rest else full


def _value_of(name: str, targets: Sequence[ast.expr], value: ast.expr) -> ast.expr | None:
    """What of an assigned value a name gets, where that can be told apart."""
    for target in targets:
        if isinstance(target, ast.Name) and target.id == name:
            return value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = zip(target.elts, value.elts, strict=True)
            found = next((given for one, given in pairs if isinstance(one, ast.Name) and one.id == name), None)
            if found is not None:
                return found
    return None


def _is_wording(node: ast.expr) -> bool:
    """Whether an expression is a text, or is put together of texts."""
    if isinstance(node, ast.BinOp):
        return _is_wording(node.left) and _is_wording(node.right)
    return isinstance(node, ast.JoinedStr) or bool(texts([node]))
