"""What a program means, as a hash: the meaning of every module of the package that it can reach by import.

Comments, docstrings, formatting and the place of the project do not count; anything else does, also the name of a
local variable. Counted too: lazy imports inside functions, the `__init__` of every package on the way, modules named
in a literal `["-m", "chord.x"]` or `import_module("chord.x")`. Not seen, so to be declared as inputs or avoided:
data files, other packages (pins say those), names of modules that are computed, `exec` of text. What stands under
`if TYPE_CHECKING` is not followed. The Python version can change a digest where its grammar tree changes.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from os.path import isfile, join
from pathlib import Path
from typing import NamedTuple

from chord.provenance.files import UserError

PROJECT = Path(__file__).resolve().parents[2]

# What no result depends on: it reads and checks config/, whose values reach every job as values, or it keeps records.
DECIDES_NOTHING = (
    "chord.config.artefacts",
    "chord.config.base",
    "chord.config.benchmarks",
    "chord.config.beside",
    "chord.config.building",
    "chord.config.checks",
    "chord.config.claims",
    "chord.config.datasets",
    "chord.config.experts",
    "chord.config.known",
    "chord.config.limits",
    "chord.config.loading",
    "chord.config.lock",
    "chord.config.messages",
    "chord.config.models",
    "chord.config.reading",
    "chord.config.slices",
    "chord.config.study",
    "chord.config.tasks",
    "chord.config.vllm",
    "chord.config.zero",
    "chord.jobs",
    "chord.provenance.commands",
    "chord.plain",
    "chord.provenance.digest",
    "chord.provenance.environment",
    "chord.provenance.freshness",
    "chord.provenance.lease",
    "chord.provenance.ledger",
    "chord.provenance.manifest",
    "chord.provenance.manifest_parts",
    "chord.provenance.processes",
)
# What a recipe is and what a run is told of it: only training, and the pages that show it, depend on that.
OF_TRAINING = ("chord.config.project", "chord.config.recipe")


class Module(NamedTuple):
    """One source file: the hash of its meaning, and the names it may import, submodules or not."""

    digest: str
    imports: tuple[str, ...]


class Source(NamedTuple):
    """Where a module stands, and what stands there."""

    path: str
    text: bytes

    @property
    def is_package(self) -> bool:
        """Whether relative imports start at the module itself."""
        return self.path.endswith("__init__.py")


IMPORTING = (ast.Import, ast.ImportFrom, ast.List, ast.Tuple, ast.Call)  # what `_imports` looks at

Sources = dict[str, Source | None]  # by module; None for one that is not there


def code_digest(verb: str, without: tuple[str, ...] = (), root: Path | None = None) -> str:
    """`digest_of` the `deciding_code`."""
    return digest_of(deciding_code(verb, without, root))


@cache
def deciding_code(verb: str, without: tuple[str, ...] = (), root: Path | None = None) -> dict[str, str]:
    """The `code_closure` of a verb without what decides nothing, and `without` what its job cannot reach.

    It is read once per process: what is edited later in the same process is not seen.
    """
    return code_closure(verb, root, DECIDES_NOTHING + without, _read_once(root))


@cache
def _read_once(root: Path | None) -> Sources:
    return {}


def digest_of(closure: dict[str, str]) -> str:
    """One SHA-256 for the modules of a `code_closure` and their digests."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in closure.items()).encode()).hexdigest()


def code_closure(
    module: str, root: Path | None = None, without: tuple[str, ...] = (), read: Sources | None = None
) -> dict[str, str]:
    """Every module of its package that `module` can reach by import, in order of name, each with a digest.

    `root` is the folder that holds the package. `without` leaves out what does not concern the caller: a module, a
    package with all below it (`chord.provenance`), or one top-level name of a module (`chord.objective.weights:phi`).
    What only they import is left out with them. `read` holds the sources that earlier calls have read; new ones are
    added to it. Raises UserError for a module that is not there or cannot be parsed.
    """
    folder, read = str(root or PROJECT), {} if read is None else read
    left_out = tuple(name for name in without if ":" not in name)
    found: dict[str, str] = {}
    waiting = [*_prefixes(module)]
    if _source(folder, module, read) is None:
        raise UserError(f"{module}: found no such module under {folder}, expected a file of the package")
    while waiting:
        name = waiting.pop()
        if name in found or (source := _source(folder, name, read)) is None or _within(name, left_out):
            continue
        dropped = tuple(sorted(item.partition(":")[2] for item in without if item.partition(":")[0] == name))
        parsed = _module(source, name, dropped)
        found[name] = parsed.digest
        waiting += parsed.imports
    return dict(sorted(found.items()))


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _source(folder: str, module: str, read: Sources) -> Source | None:
    if module not in read:
        base = join(folder, *module.split("."))
        path = next((path for path in (f"{base}.py", join(base, "__init__.py")) if isfile(path)), None)
        read[module] = Source(path, Path(path).read_bytes()) if path else None
    return read[module]


def _module(source: Source, name: str, dropped: tuple[str, ...]) -> Module:
    try:
        return _parsed(source.text, name, name if source.is_package else name.rpartition(".")[0], dropped)
    except SyntaxError as error:
        place, why = f"line {error.lineno}: " if error.lineno else "", error.msg
    except ValueError as error:
        place, why = "", str(error)
    raise UserError(f"{source.path}: {place}found code that Python cannot parse ({why}), expected a module")


@cache
def _parsed(source: bytes, name: str, package: str, dropped: tuple[str, ...]) -> Module:
    tree = ast.parse(source)
    tree.body = [statement for statement in tree.body if not _defines(statement, dropped)]
    shape: list[str] = []
    may_import: list[ast.AST] = []
    _describe(tree, shape, may_import)
    imports = {prefix for target in _imports(may_import, package) for prefix in _prefixes(target)}
    top = name.partition(".")[0]
    own = {target for target in imports if target == top or target.startswith(top + ".")}
    return Module(hashlib.sha256("".join(shape).encode()).hexdigest(), tuple(sorted(own)))


def _prefixes(target: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`: importing the last runs them all."""
    parts = target.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _defines(statement: ast.stmt, names: tuple[str, ...]) -> bool:
    """Whether a top-level statement only gives a meaning to one of `names`."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name in names
    if isinstance(statement, ast.AnnAssign):
        return isinstance(statement.target, ast.Name) and statement.target.id in names
    targets = statement.targets if isinstance(statement, ast.Assign) else [None]
    return all(isinstance(target, ast.Name) and target.id in names for target in targets)


def _imports(nodes: list[ast.AST], package: str) -> Iterator[str]:
    """Dotted names that these parts of a module in `package` may import; some may turn out to be functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*_parents(package, node.level), *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.List | ast.Tuple):
            yield from _started_as_module(node.elts)
        elif isinstance(node, ast.Call) and _last_name(node.func) == "import_module":
            yield from _texts(node.args[:1])


def _parents(package: str, level: int) -> list[str]:
    """Where a relative import of `level` dots starts; nothing for an absolute one."""
    parts = package.split(".")
    return parts[: len(parts) - level + 1] if level else []


def _last_name(node: ast.expr) -> str:
    """`c` of the expressions `c` and `a.b.c`."""
    return getattr(node, "attr", getattr(node, "id", ""))


def _started_as_module(items: list[ast.expr]) -> Iterator[str]:
    """The module of a command line `[..., "-m", "chord.x", ...]`."""
    for flag, module in pairwise(items):
        if "-m" in _texts([flag]):
            yield from _texts([module])


def _texts(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _describe(node: object, out: list[str], may_import: list[ast.AST] | None) -> None:
    """Append the tree as text: node types, set fields and constants; no positions, no docstrings.

    Fields that are empty are not written, so that a new optional field of a later Python changes nothing. On the way
    the parts that `_imports` looks at are collected, but for those that stand under `if TYPE_CHECKING`.
    """
    if isinstance(node, ast.Constant):
        out.append(f"{type(node.value).__name__} {node.value!r};")
    elif isinstance(node, ast.AST):
        out.append(f"{type(node).__name__}(")
        if may_import is not None and isinstance(node, IMPORTING):
            may_import.append(node)
        checks_types = isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING"
        for field in node._fields:
            value = getattr(node, field, None)
            if field == "body" and isinstance(value, list):
                value = _without_docstring(node, value)
            if value is None or value == []:
                continue
            out.append(f"{field}=")
            _describe(value, out, None if checks_types and field != "orelse" else may_import)
        out.append(")")
    elif isinstance(node, list):
        out.append("[")
        for item in node:
            _describe(item, out, may_import)
        out.append("]")
    else:
        out.append(f"{node!r};")


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if documented and body and isinstance(body[0], ast.Expr) and _texts([body[0].value]):
        return body[1:]
    return body
