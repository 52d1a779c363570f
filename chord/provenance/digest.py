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
from itertools import chain, groupby
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


class JobCode(NamedTuple):
    """The code of a job: one digest that decides; and to say what changed, the names and contents of its definitions.

    Of each module a text, `NAME CONTENT NAME CONTENT ...`.
    """

    digest: str
    definitions: dict[str, str]


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
    module, named = module_of(verb), dict(uses)
    package = package_of(folder, module.partition(".")[0], kept)
    here = package.module(module)
    if here is None:
        raise UserError(f"{verb}: found no such module under {folder}, expected a file of the package")
    roots = [At(module, MAIN if MAIN in here.bound else "")]
    roots += [package.definition(name) for name in named.pop(FUNCTIONS, ())]
    digests = JobDigests(package, named)
    digest = _hashed(*map(digests.of, roots))
    told: dict[str, list[str]] = {}
    for at in sorted(digests.found):
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


class JobDigests:
    """Digests of definitions with all that they reach, where a job uses certain entries of plug points."""

    def __init__(self, package: "Package", uses: Uses) -> None:
        self._package, self._uses = package, uses
        self.found: dict[At, str] = {}  # of all definitions that were reached
        self._order: dict[At, int] = {}
        self._path: list[At] = []

    def of(self, root: At) -> str:
        """The digest of one definition."""
        if root not in self.found:
            self._enter(root)
        return self.found[root]

    def _enter(self, at: At) -> int:
        """Finds the digest of `at` once it has those of all that `at` reaches: Tarjan's algorithm for circles.

        Returns the place in the order of the first definition of the circle that `at` belongs to.
        """
        first = self._order[at] = len(self._order)
        start = len(self._path)
        self._path.append(at)
        for other in self._parts(at)[1]:
            if other not in self.found:
                first = min(first, self._order[other] if other in self._order else self._enter(other))
        if first == self._order[at]:
            circle, self._path[start:] = self._path[start:], []
            self._digest(circle)
        return first

    def _digest(self, circle: list[At]) -> None:
        """Of a circle none is the first: each begins with its own content, and takes in those of the others in turn."""
        now = {at: self._package.shape(at).text for at in circle}
        is_alone = not any(other in now for other in self._parts(circle[0])[1])
        for _ in range(1 if is_alone else len(circle) + 1):
            before = self.found if is_alone else self.found | now
            parts = ((at, *self._parts(at)) for at in circle)
            now = {at: _hashed(*own, *(before[other] for other in others)) for at, own, others in parts}
        self.found |= now

    def _parts(self, at: At) -> tuple[list[str], Sequence[At]]:
        """What a definition is by itself, and what it refers to; of a plug point the entries that count."""
        shape = self._package.shape(at)
        if not shape.plug_point:
            return [shape.text], shape.refers
        entries = self._package.entries(at)
        names = sorted({*self._uses.get(shape.plug_point, entries)})
        if lacking := [name for name in names if name not in entries]:
            raise UserError(f"{at}: found no {shape.plug_point} '{lacking[0]}', expected one of: {', '.join(entries)}")
        return [shape.text, *names], [entries[name] for name in names]


# --- the package -------------------------------------------------------------------------------

# A content that is not yet resolved: texts, and [kind, name, content] for what only the whole package can tell.
# "refers": to a definition of that name. "calls": content is that of the whole call of it. "types": content is an
# annotation, of which only what it refers to counts.
Content = list[Any]


@dataclass
class Module:
    """One source file, by what its statements give names to."""

    name: str
    path: str
    bound: dict[str, Content] = field(default_factory=dict[str, Content])
    imported: dict[str, str] = field(default_factory=dict[str, str])
    marks: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # of names, the decorators called
    points: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # of names, what made them and its text
    entries: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])  # of points, names by entry
    effects: Content = field(default_factory=list[Any])  # what runs when it is imported
    when_run: Content = field(default_factory=list[Any])  # what runs when it is the program


class Shape(NamedTuple):
    """The content of one definition without that of others, and which others it refers to, in order."""

    text: str
    refers: tuple[At, ...] = ()
    plug_point: str = ""


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
        self.name, self.sources, self._kept = name, sources, kept
        self._known = _read_kept(kept) if kept else {}
        self._modules: dict[str, Module | None] = {}
        self._shapes: dict[At, Shape] = {}
        self._found: dict[str, tuple[At | None, list[str]]] = {}

    def module(self, name: str) -> Module | None:
        """The module of that name; None where there is none. Raises UserError for one that cannot be parsed."""
        if name not in self._modules:
            base = name.replace(".", "/")
            path = next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in self.sources), None)
            known = self._known.get(_key(name, self.sources[path])) if path else None
            read = read_module(name, path, self.sources[path]) if path and not known else None
            self._modules[name] = Module(**known) if known else read
        return self._modules[name]

    def keep(self) -> None:
        """Writes down the contents of all modules that were read, if any was new. No room to do so is no error."""
        now = {_key(here.name, self.sources[here.path]): vars(here) for here in self._modules.values() if here}
        if self._kept and now.keys() != self._known.keys():
            with suppress(OSError):
                write_atomically(self._kept, json.dumps(now))

    def definition(self, name: str) -> At:
        """The definition of that full name. Raises UserError where there is none."""
        at, rest = self.find(name)
        if at is None or rest:
            raise UserError(f"{name}: found no such definition, expected one of the package {self.name}")
        return at

    def find(self, dotted: str) -> tuple[At | None, list[str]]:
        """The definition or module that a dotted name begins with, and the parts of the name that come after it.

        None for a name that nothing in the package explains.
        """
        if dotted not in self._found:
            self._found[dotted] = None, dotted.split(".")[1:]  # a name that is imported in a circle is nobody's
            self._found[dotted] = self._find(dotted)
        return self._found[dotted]

    def _find(self, dotted: str) -> tuple[At | None, list[str]]:
        module, *rest = dotted.split(".")
        if module != self.name:
            return None, [module, *rest]
        while rest:
            here, part = self.module(module), rest[0]
            if here is not None and part in here.bound:
                return At(module, part), rest[1:]
            if here is not None and part in here.imported:
                return self.find(".".join([here.imported[part], *rest[1:]]))
            if self.module(f"{module}.{part}") is None:
                return (At(module, "") if part == "__name__" else None), rest
            module, rest = f"{module}.{part}", rest[1:]
        return At(module, ""), []

    def is_outside(self, at: At) -> bool:
        """Whether the definition is marked as one that decides nothing."""
        here = self.module(at.module)
        return here is not None and any(self._is_mark(one, "decides_nothing") for one in here.marks.get(at.name, ()))

    def _is_mark(self, full: str, name: str) -> bool:
        return self.find(full)[0] == At(f"{self.name}.reach", name)

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
        if at.name in here.points and self._is_mark(here.points[at.name][0], "PlugPoint"):
            what = here.points[at.name][1]
            return Shape(f"plug point {what}", (), what)
        text: list[str] = []
        refers: list[At] = [] if at.name else [At(at.module, name) for name in here.bound]
        parts = here.bound[at.name] if at.name else ["module", *here.when_run]
        self._resolve([*parts, *here.effects], text, refers)  # importing the module runs its effects
        return Shape("".join(text), tuple(refers))

    def _resolve(self, content: Content, text: list[str], refers: list[At]) -> None:
        """Appends a content, with what only the whole package can tell."""
        for part in content:
            if isinstance(part, str):
                text.append(part)
                continue
            kind, name, inner = part
            at, rest = self.find(name)
            if kind == "types":
                named: list[str] = []
                self._resolve(inner, named, refers)
                text += [one for one in named if one == REFERS]
            elif at is not None and self.is_outside(at):
                text.append(OUTSIDE)
            elif kind == "calls":
                self._resolve(inner, text, refers)
            else:
                text += [REFERS if at else "unknown", *(f".{one};" for one in rest)]
                refers += [at] if at else []


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


def read_module(name: str, path: str, source: bytes) -> Module:
    """The module in a file. Raises UserError for one that cannot be parsed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line, why = getattr(error, "lineno", None), getattr(error, "msg", error)
        place = f"line {line}: " if line else ""
        raise UserError(f"{path}: {place}found code that Python cannot parse ({why}), expected a module") from None
    here = Module(name, path)
    statements = list(_for_values(tree.body))
    given: dict[str, list[ast.stmt]] = {}
    for statement in statements:
        if not is_program(statement):
            for bound, imported in names_bound([statement], here).items():
                if imported is None:
                    given.setdefault(bound, []).append(statement)
                else:
                    here.imported.setdefault(bound, imported)
    here.bound = {bound: [] for bound in given}
    describer = Describer(here)
    for statement in statements:
        describer.note_marks(statement)
    here.bound = {bound: describer.apart(describer.definition, some, bound) for bound, some in given.items()}
    programs = [one for one in statements if is_program(one)]
    here.when_run = describer.apart(describer.several, programs)
    here.effects = describer.apart(describer.several, [one for one in statements if one not in programs and works(one)])
    return here


def _for_values(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that Python runs: not what is imported for a type checker alone."""
    for statement in statements:
        if is_for_types(statement):
            yield from _for_values(cast(ast.If, statement).orelse)
        else:
            yield statement


def is_for_types(statement: ast.stmt) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, which Python skips."""
    return isinstance(statement, ast.If) and last_name(statement.test) == "TYPE_CHECKING"


def is_program(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and "__name__" in map(last_name, ast.walk(statement.test))


def works(statement: ast.stmt) -> bool:
    """Whether a statement does more than give meanings to names."""
    match statement:
        case ast.If(body=body, orelse=other):
            return any(map(works, [*body, *other]))
        case ast.Try(body=body, orelse=other, finalbody=last, handlers=handlers):
            return any(map(works, [*body, *other, *last, *(one for handler in handlers for one in handler.body)]))
        case ast.Assign(targets=targets):
            return any(isinstance(one, ast.Attribute | ast.Subscript) for part in targets for one in ast.walk(part))
        case ast.AnnAssign(target=target):
            return isinstance(target, ast.Attribute | ast.Subscript)
        case ast.Expr(value=ast.Constant()):
            return False
        case _:
            return not isinstance(statement, (*DEFINING, ast.Import, ast.ImportFrom, ast.Pass))


# --- names -------------------------------------------------------------------------------------

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def names_bound(nodes: Iterable[ast.AST], here: Module) -> dict[str, str | None]:
    """The names that statements bind in their own scope: None, or for an import the dotted name of what it brings."""
    found: dict[str, str | None] = {}
    elsewhere: set[str] = set()
    waiting = list(nodes)
    while waiting:
        match node := waiting.pop():
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found[node.name] = None
                waiting += node.decorator_list
            case ast.Import():
                for one in node.names:
                    first = one.name.partition(".")[0]
                    found[one.asname or first] = one.name if one.asname else first
            case ast.ImportFrom():
                base = ".".join([*_parents(here, node.level), *([node.module] if node.module else [])])
                found |= {one.asname or one.name: f"{base}.{one.name}" for one in node.names}
            case ast.Global() | ast.Nonlocal():
                elsewhere |= {*node.names}
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                found |= {one.target.id: None for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
            case ast.Lambda() | ast.Constant() | ast.Name(ctx=ast.Load()):
                pass
            case _:
                name = getattr(node, "id", None) or getattr(node, "rest", None)
                if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
                    name = node.name
                found |= {name: None} if name else {}
                waiting += ast.iter_child_nodes(node)
    return {name: imported for name, imported in found.items() if name not in elsewhere}


def _parents(here: Module, level: int) -> list[str]:
    """Where a relative import of `level` dots starts; nothing for an absolute one."""
    parts = here.name.split(".") if here.path.endswith("__init__.py") else here.name.split(".")[:-1]
    return parts[: len(parts) - level + 1] if level else []


def last_name(node: ast.AST) -> str:
    """`c` of the expressions `c` and `a.b.c`."""
    return getattr(node, "attr", getattr(node, "id", ""))


def dotted_name(node: ast.AST) -> str | None:
    """`a.b.c` of such an expression; None for another."""
    if isinstance(node, ast.Attribute):
        before = dotted_name(node.value)
        return before and f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def entry_of(decorator: ast.expr) -> tuple[str, str]:
    """The plug point and the name of `@POINT.entry("name")`; two empty texts for another decorator."""
    match decorator:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=point), attr="entry"), args=[ast.Constant(value=str(name)), *_]
        ):
            return point, name
        case _:
            return "", ""


def texts(nodes: Iterable[ast.AST]) -> list[str]:
    """Those of the expressions that are a text."""
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


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


class Scope(NamedTuple):
    """Names that are bound in a function, or in the body of a class, which functions in it do not see."""

    names: Mapping[str, str | None]
    of_class: bool = False


class Describer:
    """Writes the content of statements of one module."""

    def __init__(self, here: Module) -> None:
        self.out: Content = []
        self._here, self._package = here, here.name.partition(".")[0]
        self._scopes: list[Scope] = []

    def apart(self, write: Callable[..., None], *given: Any) -> Content:
        """What `write` writes, by itself; texts that follow each other are one."""
        outer, self.out = self.out, []
        write(*given)
        groups = [(is_text, [*some]) for is_text, some in groupby(self.out, key=lambda part: isinstance(part, str))]
        self.out = outer
        return [part for is_text, some in groups for part in (["".join(some)] if is_text else some)]

    def note_marks(self, statement: ast.stmt) -> None:
        """Notes in the module which marks a statement at its top bears, which entry or plug point it is."""
        here = self._here
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                for one in statement.decorator_list:
                    point, entry = entry_of(one)
                    if point:
                        here.entries.setdefault(point, {})[entry] = statement.name
                    elif isinstance(one, ast.Call) and (mark := self.full_name(one.func)):
                        here.marks.setdefault(statement.name, []).append(mark)
            case ast.Assign(value=ast.Call() as call) | ast.AnnAssign(value=ast.Call() as call):
                made = call.func
                maker = self.full_name(
                    made.value if isinstance(made, ast.Subscript) else made
                )  # PlugPoint[Grader](...)
                if maker and (what := texts(call.args[:1])):
                    here.points |= {name: [maker, what[0]] for name in names_bound([statement], here)}
            case _:
                pass

    def definition(self, statements: Iterable[ast.stmt], name: str) -> None:
        """What statements give to `name`."""
        for statement in statements:
            if isinstance(statement, DEFINING):
                self.node(statement)
            elif (value := _value_of(name, statement)) is not None:
                self.node(value)
            else:
                names = sorted(names_bound([statement], self._here))
                self.out.append("one of ")
                self._within(Scope(dict.fromkeys(names)), self.node, statement)
                self.out.append(f"{names.index(name)};")

    def several(self, nodes: Iterable[object]) -> None:
        """Appends parts of the tree."""
        for one in nodes:
            self.node(one)

    def node(self, node: object) -> None:
        """Appends a part of the tree."""
        match node:
            case list():
                self.out.append("[")
                self.several(cast(list[object], node))
                self.out.append("]")
            case ast.Constant(value=value):
                self.out.append(f"{type(value).__name__} {value!r};")
            case ast.Name():
                self._name(node)
            case ast.Attribute():
                if full := self.full_name(node):
                    self._written(full)
                else:
                    self.node(node.value)
                    self.out.append(f".{node.attr};")
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node)
            case ast.ClassDef():
                self._class(node)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node)
            case ast.AnnAssign():
                if node.value is not None:
                    self._plain(ast.Assign(targets=[node.target], value=node.value))
            case ast.Raise(exc=ast.Call() as error):  # the words of an error decide no result
                said = [one for one in error.args if not _is_wording(one)]
                self._plain(ast.Raise(exc=ast.Call(error.func, said, error.keywords), cause=node.cause))
            case ast.Call():
                self._call(node)
            case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.Pass():
                pass  # docstrings, texts below a name, and imports, which are followed where what they bring is used
            case ast.AST():
                self._plain(node)
            case _:
                self.out.append(f"{node!r};")

    def _plain(self, node: ast.AST) -> None:
        """Node type, set fields; empty ones are not written, so that a new field of a later Python changes nothing."""
        self.out.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in ("ctx", "type_comment", "type_params"):
                self.out.append(f"{name}=")
                self.node(value)
        self.out.append(")")

    def _within(self, scope: Scope, write: Callable[..., None], *given: Any) -> None:
        self._scopes.append(scope)
        write(*given)
        self._scopes.pop()

    def _decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for one in node.decorator_list:
            if not entry_of(one)[0]:
                self.out.append("@")
                self.node(one)

    def _class(self, node: ast.ClassDef) -> None:
        self._decorators(node)
        self.out.append("class(")
        self.node(node.bases)
        self.node(node.keywords)
        given = [*node.bases, *(one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)]
        names_only = any(self.full_name(one) in NAMES_ONLY for one in given)
        self._within(Scope(names_bound(node.body, self._here), of_class=True), self._members, node.body, names_only)
        self.out.append(")")

    def _members(self, body: Iterable[ast.stmt], names_only: bool) -> None:
        for statement in body:
            if isinstance(statement, ast.AnnAssign):
                self._field(statement, names_only)
                continue
            if isinstance(statement, DEFINING):
                self.out.append(f"{statement.name}=")
            self.node(statement)

    def _field(self, node: ast.AnnAssign, names_only: bool) -> None:
        """A field of a class. Of its annotation those definitions count that a library makes values of.

        What else it says may refuse a value, and changes none.
        """
        self.out.append("field ")
        self.node(node.target)
        if not names_only:
            quoted = texts([node.annotation])
            types = self.apart(self.node, ast.parse(quoted[0], mode="eval").body if quoted else node.annotation)
            self.out.append(["types", "", [part for part in types if not isinstance(part, str)]])
        words = set(map(last_name, ast.walk(node.annotation)))
        self.out += [f"{name};" for name in IN_EVERY_CLASS if name in words]
        if node.value is not None:
            self.out.append("=")
            self.node(node.value)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        if not isinstance(node, ast.Lambda):
            self._decorators(node)
        given = node.args
        self.out.append(f"{type(node).__name__}(")
        self.node(given.defaults)
        self.node([one for one in given.kw_defaults if one is not None])
        named = [[one.arg for one in some] for some in (given.posonlyargs, given.args, given.kwonlyargs)]
        rest = [given.vararg and given.vararg.arg, given.kwarg and given.kwarg.arg]
        needed = [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
        self.out.append(f"{named} {needed} {rest[0]} {rest[1]};")
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        names = names_bound(body, self._here) | dict.fromkeys([*chain(*named), *filter(None, rest)])
        self._within(Scope(names), self.node, body)
        self.out.append(")")

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.node(node.generators[0].iter)  # the one part that the scope around it gives
        targets = [one for generator in node.generators for one in ast.walk(generator.target)]
        self._within(Scope({one.id: None for one in targets if isinstance(one, ast.Name)}), self._plain, node)

    def _call(self, node: ast.Call) -> None:
        full = self.full_name(node.func)
        if full == "typing.cast" and len(node.args) == 2:
            self.node(node.args[1])
            return
        explains = EXPLAINS.get(full or "", EXPLAINS.get(last_name(node.func), set[str]()))
        call = ast.Call(node.func, node.args, [one for one in node.keywords if one.arg not in explains])
        if full and self._is_ours(full):
            self.out.append(["calls", full, self.apart(self._plain, call)])
        else:
            self._plain(call)

    def _name(self, node: ast.Name) -> None:
        if full := self.full_name(node):
            self._written(full)
            return
        is_local = self.scope_of(node.id) is not None
        self.out.append(f"{'local' if is_local else 'name'} {node.id};")
        in_class = is_local and self._scopes[-1].of_class and node.id in self._scopes[-1].names
        if in_class and isinstance(node.ctx, ast.Load) and node.id in self._here.bound:
            self._written(f"{self._here.name}.{node.id}")  # what it was before the class gave it a meaning

    def _written(self, full: str) -> None:
        if self._is_ours(full):
            self.out.append(["refers", full, []])
        else:
            first, *rest = full.split(".")
            self.out.append("".join([f"of {first};", *(f".{one};" for one in rest)]))

    def _is_ours(self, full: str) -> bool:
        return full.partition(".")[0] == self._package

    def scope_of(self, name: str) -> Scope | None:
        """The innermost scope that binds the name; None where it is one of the module or of Python."""
        for depth, one in enumerate(reversed(self._scopes)):
            if name in one.names and (not one.of_class or depth == 0):
                return one
        return None

    def full_name(self, node: ast.expr) -> str | None:
        """The full name of an expression `a` or `a.b.c` that begins with an import or a definition; else None."""
        dotted = dotted_name(node)
        if dotted is None:
            return None
        first, _, rest = dotted.partition(".")
        scope = self.scope_of(first)
        full = scope.names[first] if scope else self._here.imported.get(first)
        if full is None and not scope and first in self._here.bound:
            full = f"{self._here.name}.{first}"
        return f"{full}.{rest}" if full and rest else full


def _value_of(name: str, statement: ast.stmt) -> ast.expr | None:
    """What a statement assigns to a name, where that can be told apart."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return None
    value = statement.value
    for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for one, given in pairs:
            if isinstance(one, ast.Name) and one.id == name:
                return given
    return None


def _is_wording(node: ast.expr) -> bool:
    """Whether an expression is a text, or is put together of texts."""
    if isinstance(node, ast.BinOp):
        return _is_wording(node.left) and _is_wording(node.right)
    return isinstance(node, ast.JoinedStr) or bool(texts([node]))
