"""Property: the code digest of a job changes with the content of what it can reach, and with nothing else."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chord.config.project import load
from chord.errors import UserError
from chord.provenance.changes import code_differences
from chord.provenance.digest import At, JobDigests, Package, Uses, code_digest, contents, job_code, package_of
from chord.provenance.unfollowed import unfollowed
from chord.steps import Dag
from tests.projects import replace

PROJECT = Path(__file__).resolve().parents[2]
MARKS = (PROJECT / "chord" / "reach.py").read_text(encoding="utf-8")


def package(root: Path, **modules: str) -> Path:
    """A package `p` with these modules (`a__b` is p/a/b.py), each folder with an empty `__init__`."""
    for name, source in {"__init__": "", "reach": MARKS, **modules}.items():
        path = root.joinpath("p", *name.split("__")) if name != "__init__" else root / "p" / "__init__"
        path.parent.mkdir(parents=True, exist_ok=True)
        init = path.parent / "__init__.py"
        if not init.exists():
            init.write_text("")
        path.with_name(path.name + ".py").write_text(source)
    return root


def in_memory(modules: dict[str, str], uses: Uses | None = None) -> tuple[str, set[str]]:
    """The digest of `main` in p.a, and the definitions that it reaches; modules by name, of package p."""
    sources = {"p/__init__.py": b"", "p/reach.py": MARKS.encode()}
    sources |= {f"p/{name.replace('.', '/')}.py": text.encode() for name, text in modules.items()}
    digests = JobDigests(Package("p", sources), uses or {})
    return digests.of(At("p.a", "main")), set(map(str, digests.found))


def meaning(source: str) -> str:
    """The digest of all that a module does when it is run."""
    return JobDigests(Package("x", {"x/__init__.py": b"", "x/y.py": source.encode()}), {}).of(At("x.y", ""))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = True"),
        ("x = '1'", "x = b'1'"),
        ("x = '1'", "x = 1"),
        ("x = a < b", "x = a <= b"),
        ("f(1)\ng(2)", "g(2)\nf(1)"),
        ("def f(): return None", "def f(): pass"),
        ("def f(a, b=1): pass", "def f(a=1, b=1): pass"),
        ("def f(a): pass", "def f(*, a): pass"),
        ("x = {**a}", "x = {a: a}"),
        ("x = y[1:]", "x = y[:1]"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
        ("async def f(): pass", "def f(): pass"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("assert x", ""),
    ],
)
def test_what_changes_the_meaning_changes_the_digest(one, other):
    assert meaning(one) != meaning(other)


def test_real_code_means_the_same_when_it_is_printed_anew():
    for name in ("json/decoder.py", "argparse.py", "dataclasses.py", "textwrap.py", "statistics.py", "enum.py"):
        source = Path(ast.__file__).parent.joinpath(name).read_text()
        assert meaning(source) == meaning(ast.unparse(ast.parse(source)))
        assert meaning(source) != meaning(source + "\nx = 1\n")


# --- what a definition refers to ----------------------------------------------------------------

F = "def f(x, y=1):\n    return g(x) + y\n"
G = "def g(x):\n    return x * C\nC = 3\n"
B = f"{F}{G}def unused():\n    return 7\n"
MAIN = "def main():\n    return f(2)\n"
A = f"from p.b import f\n{MAIN}"
ONE = {"a": A, "b": B}
SAME: dict[str, dict[str, str]] = {
    "the module by itself": {"a": "import p.b\ndef main():\n    return p.b.f(2)\n"},
    "the module by another name": {"a": "import p.b as q\ndef main():\n    return q.f(2)\n"},
    "the module out of its package": {"a": "from p import b\ndef main():\n    return b.f(2)\n"},
    "the definition by another name": {"a": "from p.b import f as g\ndef main():\n    return g(2)\n"},
    "a relative import": {"a": f"from .b import f\n{MAIN}"},
    "an import in a function": {"a": "def main():\n    from p.b import f\n    return f(2)\n"},
    "an import of something else": {"a": f"import json\nfrom p.b import f, g\n{MAIN}"},
    "a re-export": {"a": f"from p.c import f\n{MAIN}", "c": "from p.b import f\n"},
    "a module in a folder": {"a": f"from p.room.b import f\n{MAIN}", "room.__init__": "", "room.b": B},
    "another name of a function": {"b": B.replace("g(x)", "helper(x)")},
    "another name of a constant": {"b": B.replace("C", "FACTOR")},
    "annotations": {
        "a": A.replace("main():", "main() -> int:"),
        "b": B.replace("(x, y=1)", '(x: int, y: "float" = 1) -> "C"').replace("C = 3", "C: int = 3"),
    },
    "a cast": {"a": "from typing import cast\nfrom p.b import f\ndef main():\n    return cast(int, f(2))\n"},
    "types imported for a checker": {
        "a": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.d import T\n{A}",
        "d": "T = 1\n",
    },
    "the same helper twice": {
        "b": "from p.c import g as h\ndef f(x, y=1):\n    return h(x) + y\n" + G,
        "c": G.replace("C", "D"),
    },
}


@pytest.mark.parametrize("case", SAME)
def test_where_code_stands_and_what_it_is_called_changes_no_digest(case: str) -> None:
    assert in_memory(ONE | SAME[case])[0] == in_memory(ONE)[0]


CLASS = """
from dataclasses import dataclass
class Base:
    width = 1
    def size(self):
        return self.width
@dataclass
class Thing(Base):
    '''A thing.'''
    name: str = "a"
    def area(self, by=2):
        def twice(x):
            return x * by
        return twice(self.size())
class Other(Base):
    pass
def main():
    return Thing().area()
"""
OTHER: dict[str, tuple[str, str]] = {
    "a default argument": ("y=1", "y=2"),
    "a constant two calls deep": ("C = 3", "C = 4"),
    "the type of a constant": ("C = 3", "C = 3.0"),
    "a helper": ("x * C", "C * x"),
    "a decorator": ("def g(x)", "@cache\ndef g(x)"),
    "which helper is called": ("g(x) + y", "unused(x) + y"),
    "a function of Python in its place": ("g(x) + y", "abs(x) + y"),
    "the order of arguments": ("(x, y=1)", "(y, x=1)"),
    "a base class": ("class Thing(Base)", "class Thing(Other)"),
    "what a base class does": ("return self.width", "return 2 * self.width"),
    "an attribute of a base class": ("width = 1", "width = 2"),
    "the default of a field": ('"a"', '"b"'),
    "the name of a field": ("name: str", "label: str"),
    "a nested function": ("return x * by", "return x + by"),
    "a default argument of a method": ("by=2", "by=3"),
    "a decorator of a class": ("@dataclass\n", "@dataclass(frozen=True)\n"),
    "the name of a method": ("size(", "length("),
}


@pytest.mark.parametrize("case", OTHER)
def test_what_code_does_changes_the_digest_of_all_that_reaches_it(case: str) -> None:
    old, new = OTHER[case]
    modules = {"a": CLASS} if old in CLASS else ONE
    edited = {name: text.replace(old, new) for name, text in modules.items()}
    assert edited != modules and in_memory(edited)[0] != in_memory(modules)[0]


def test_types_of_fields_docstrings_and_other_classes_do_not_count() -> None:
    for old, new in (("name: str", "name: int"), ("A thing.", "The thing."), ("    pass", "    x = 1")):
        assert in_memory({"a": CLASS.replace(old, new)})[0] == in_memory({"a": CLASS})[0], new


def test_two_definitions_that_exchange_their_users_are_told_apart() -> None:
    text = "def main():\n    return one(1) - two(1)\ndef one(x):\n    return x\ndef two(x):\n    return 2 * x\n"
    assert in_memory({"a": text})[0] != in_memory({"a": text.replace("one(1) - two(1)", "two(1) - one(1)")})[0]
    assert in_memory({"a": text})[0] != in_memory({"a": text.replace("two(1)", "one(1)")})[0]


def test_definitions_that_call_each_other_have_a_digest_and_an_edit_of_one_is_seen_in_each() -> None:
    text = "def main():\n    return odd(5)\ndef odd(x):\n    return even(x - 1)\n"
    text += "def even(x):\n    return x == 0 or odd(x - 1)\n"
    before, reached = in_memory({"a": text})
    assert reached == {"p.a.main", "p.a.odd", "p.a.even"}
    assert in_memory({"a": text.replace("x == 0", "x < 1")})[0] != before
    renamed = text.replace("odd", "uneven")
    moved = renamed[renamed.index("def even") :] + renamed[: renamed.index("def even")]
    assert in_memory({"a": moved})[0] == before


def test_a_local_name_hides_one_of_the_module() -> None:
    text = "def main({}):\n    return {}\ndef phi(x):\n    return x\ndef f(x):\n    return x\n"
    assert in_memory({"a": text.format("phi", "phi(1) + sum(f for f in (1, 2))")})[1] == {"p.a.main"}
    for use in ("[phi for phi in phi(1)]", "(lambda x=phi: x)()", "{phi(x): 1 for x in (1, 2)}"):
        assert "p.a.phi" in in_memory({"a": text.format("", use)})[1], use


def test_fields_of_settings_reach_the_records_that_they_are_made_of_and_their_words_do_not_count() -> None:
    text = """
from pydantic import BaseModel, Field
class Inner(BaseModel):
    size: int = Field(default=1, description="how large")
class Outer(BaseModel):
    inner: "Inner"
    other: Inner | None = None
def main():
    return Outer.model_validate_json("{}")
"""
    before, reached = in_memory({"a": text})
    assert reached == {"p.a.main", "p.a.Outer", "p.a.Inner"}
    assert in_memory({"a": text.replace("how large", "its size")})[0] == before
    assert in_memory({"a": text.replace("default=1", "default=2")})[0] != before
    assert in_memory({"a": text.replace("size: int", "size: float")})[0] == before, "it refuses values, and makes none"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('raise ValueError("found x, expected y")', 'raise ValueError("found another")'),
        ('raise ValueError(f"found {helper()}")', 'raise ValueError("found " + f"{x}")'),
        ('parser.add_argument("--x", help="what")', 'parser.add_argument("--x", help="how")'),
        ("import p.b", "pass"),
        ("x: int = 1", "x = 1"),
    ],
)
def test_words_for_people_do_not_count(one: str, other: str) -> None:
    text = "import argparse\ndef main(parser, x):\n    {}\n    return x\ndef helper():\n    return 1\n"
    ours, theirs = ({"a": text.format(part), "b": "y = 1\n"} for part in (one, other))
    assert in_memory(ours)[0] == in_memory(theirs)[0]


def test_the_kind_of_an_error_and_values_that_it_carries_count() -> None:
    text = "def main(x):\n    raise ValueError('a', x + 1)\n"
    for new in (text.replace("ValueError", "TypeError"), text.replace("x + 1", "x + 2")):
        assert in_memory({"a": new})[0] != in_memory({"a": text})[0]


def test_a_module_that_is_started_counts_with_all_that_it_is(tmp_path: Path) -> None:
    text = {
        "a": "import sys\nfrom p import child\ndef main():\n    run([sys.executable, '-m', child.__name__])\n",
        "child": "def work():\n    return 1\nif __name__ == '__main__':\n    work()\n",
    }
    before, reached = in_memory(text)
    assert "p.child.work" in reached
    assert in_memory(text | {"child": text["child"].replace("    work()", "    print(work())")})[0] != before
    assert in_memory({"a": text["a"].replace("child", "kid"), "kid": text["child"]})[0] == before


# --- marks --------------------------------------------------------------------------------------

PLUGS = """
from p.reach import PlugPoint, decides_nothing
WEIGHTS = PlugPoint[object]("weight")
@WEIGHTS.entry("one")
def one(p):
    return 1
@WEIGHTS.entry("phi")
class Phi:
    def of(self, p):
        return helper(p)
def helper(p):
    return p * (1 - p)
@decides_nothing("it records")
def record(text):
    return keep(text)
def keep(text):
    return text
@decides_nothing("it records")
class Log:
    @classmethod
    def open(cls, text):
        return text
def words():
    return "words"
def main(name):
    with record(words()), Log.open(words()):
        return WEIGHTS[name]
"""


def test_of_a_plug_point_those_entries_count_that_a_job_uses() -> None:
    def seen(text: str, *names: str) -> str:
        return in_memory({"a": text}, {"weight": names})[0]

    edited = PLUGS.replace("p * (1 - p)", "p * (2 - p)")
    assert seen(edited, "one") == seen(PLUGS, "one")
    assert seen(edited, "phi") != seen(PLUGS, "phi")
    assert seen(edited, "one", "phi") != seen(PLUGS, "one", "phi") != seen(PLUGS, "one")
    added = PLUGS.replace("def helper", "@WEIGHTS.entry('new')\ndef new(p):\n    return p\ndef helper")
    assert seen(added, "phi") == seen(PLUGS, "phi")
    assert in_memory({"a": added})[0] != in_memory({"a": PLUGS})[0], "a job that names none uses all"
    with pytest.raises(UserError, match=r"p\.a\.WEIGHTS: found no weight 'phy', expected one of: one, phi"):
        seen(PLUGS, "phy")


def test_what_decides_nothing_is_not_followed_nor_what_is_given_to_it() -> None:
    before, reached = in_memory({"a": PLUGS}, {"weight": ("one",)})
    assert reached == {"p.a.main", "p.a.WEIGHTS", "p.a.one"}
    for old, new in (
        ("return keep(text)", "return text"),
        ("record(words())", "record('other')"),
        ("open(words())", "open('other')"),
        ("open(cls, text)", "open(cls, *text)"),
        ('"words"', '"others"'),
    ):
        assert in_memory({"a": PLUGS.replace(old, new)}, {"weight": ("one",)})[0] == before


# --- jobs ---------------------------------------------------------------------------------------


def test_a_manifest_can_tell_which_definition_changed_wherever_it_stands(tmp_path: Path) -> None:
    one, other, moved = (tmp_path / name for name in ("one", "other", "moved"))
    package(one, **ONE)
    package(other, **(ONE | {"b": B.replace("x * C", "C * x")}))
    package(moved, a=ONE["a"].replace("p.b", "p.c"), c=B.replace("C = 3", "C = 4"))
    codes = [job_code("p.a", {}, folder) for folder in (one, other, moved)]
    assert set(contents(codes[0].definitions)) == {"p.a.main", "p.b.f", "p.b.g", "p.b.C"}
    changes = [[change.where for change in code_differences(codes[0].definitions, one.definitions)] for one in codes]
    assert changes == [[], ["p.b.g"], ["p.b.C", "p.c.C"]]


def test_what_is_not_there_or_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    root = package(tmp_path, a="from p.b import f\ndef main():\n    return f\n", b="def f(:\n", c="x = 1\n")
    with pytest.raises(UserError, match=r"p/b.py: line 1: found code that Python cannot parse"):
        code_digest("p.a", root=root)
    with pytest.raises(UserError, match=r"p\.absent: found no such module"):
        code_digest("p.absent", root=root)
    with pytest.raises(UserError, match=r"p\.c\.g: found no such definition"):
        code_digest("p.c", {"functions": ("p.c.g",)}, root)


def test_what_is_kept_of_modules_gives_the_same_digest_and_is_read_only_for_the_same_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept" / "code.json"

    def seen(**modules: str) -> str:
        code = Package("p", {f"p/{name}.py": text.encode() for name, text in {"__init__": "", **modules}.items()}, kept)
        found = JobDigests(code, {}).of(At("p.a", "main"))
        code.keep()
        return found

    def parsed(source: bytes) -> ast.Module:
        texts.append(source.decode())
        return parse(source)

    texts: list[str] = []
    parse = ast.parse
    monkeypatch.setattr("chord.provenance.digest.ast.parse", parsed)
    first = seen(**ONE)
    texts.clear()
    assert (seen(**ONE), texts) == (first, [])
    edited = ONE | {"b": B.replace("C = 3", "C = 4")}
    assert seen(**edited) != first
    assert texts == [edited["b"]]
    assert seen(**edited) == in_memory(edited)[0]
    for damage in (b"", b"[]", b"{", b'{"x": 1}'):
        kept.write_bytes(damage)
        assert seen(**ONE) == first == in_memory(ONE)[0]


def test_no_room_to_keep_modules_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    code = Package("p", {"p/__init__.py": b"", "p/a.py": b"def main():\n    pass\n"}, tmp_path / "kept" / "code.json")
    JobDigests(code, {}).of(At("p.a", "main"))
    code.keep()
    assert (tmp_path / "kept").read_text() == "a file"


# --- this project -------------------------------------------------------------------------------

Edit = Callable[[Path], None]
DEMO = load(PROJECT, "demo")
EXPECTED = Dag(DEMO, PROJECT).specs


def edit(*changes: tuple[str, str, str]) -> Edit:
    def change(tree: Path) -> None:
        for file, old, new in changes:
            replace(tree / file, old, new)

    return change


def everywhere(old: str, new: str) -> Edit:
    def change(tree: Path) -> None:
        for file in (tree / "chord").rglob("*.py"):
            file.write_text(re.sub(old, new, file.read_text(encoding="utf-8")), encoding="utf-8")

    return change


def rename_a_module(tree: Path) -> None:
    (tree / "chord/training/gradient.py").rename(tree / "chord/training/sorting.py")
    everywhere(r"chord\.training\.gradient\b", "chord.training.sorting")(tree)


def split_a_module(tree: Path) -> None:
    objective = tree / "chord/objective.py"
    text = objective.read_text(encoding="utf-8")
    start = text.index("class TokenSum")
    head = text[: text.index("# --- mu")]
    (tree / "chord/losses.py").write_text(head + text[start:], encoding="utf-8")
    objective.write_text(text[:start], encoding="utf-8")
    gradient = "from chord.losses import LOSSES, Parts, TokenSum, imitation, policy_gradient, truncated_correction\n"
    everywhere(r"from chord\.objective import \(\n    LOSSES[^)]*\)\n", gradient)(tree)
    edit(
        ("chord/training/gradient.py", gradient, f"{gradient}from chord.objective import ExpertTokens, TokenWeight\n")
    )(tree)


def merge_two_modules(tree: Path) -> None:
    calls, graders = tree / "chord/grading/tool_calls.py", tree / "chord/grading/graders.py"
    lines = calls.read_text(encoding="utf-8").split('"""', 2)[2]
    text = re.sub("from chord.grading.tool_calls import .*\n", "", graders.read_text(encoding="utf-8"))
    start = text.index("\nimport ") + 1
    graders.write_text(text[:start] + lines + "\n" + text[start:], encoding="utf-8")
    calls.unlink()
    everywhere(r"chord\.grading\.tool_calls\b", "chord.grading.graders")(tree)


def move_a_function(tree: Path) -> None:
    text = (tree / "chord/objective.py").read_text(encoding="utf-8")
    start, end = text.index("def group_advantages"), text.index('@ADVANTAGES.entry("luffy")')
    (tree / "chord/objective.py").write_text(
        text[:start].replace("from chord.reach", "from chord.records import group_advantages\nfrom chord.reach")
        + text[end:],
        encoding="utf-8",
    )
    seeds = tree / "chord/records.py"
    seeds.write_text(
        seeds.read_text(encoding="utf-8") + "\n\n" + text[start:end].replace("Tensor", "object"), encoding="utf-8"
    )


def reorder(tree: Path) -> None:
    text = (tree / "chord/objective.py").read_text(encoding="utf-8")
    one, two, end = (text.index(name) for name in ("def policy_gradient", "def truncated_correction", "def imitation"))
    (tree / "chord/objective.py").write_text(text[:one] + text[two:end] + text[one:two] + text[end:], encoding="utf-8")


OBJECTIVE, GRADERS = "chord/objective.py", "chord/grading/graders.py"


def new_entry(file: str, point: str, before: str) -> Edit:
    """One more entry of a plug point."""
    return edit((file, before, f'@{point}.entry("new")\ndef new(x):\n    return x\n\n\n{before}'))


NOTHING: dict[str, Edit] = {
    "a renamed module": rename_a_module,
    "a moved function": move_a_function,
    "a module split in two": split_a_module,
    "two modules merged": merge_two_modules,
    "another order": reorder,
    "an uncalled function": edit(
        (OBJECTIVE, "# --- losses", "def square(p: float) -> float:\n    return p * p\n\n\n# --- losses")
    ),
    "a new weight": new_entry(OBJECTIVE, "TOKEN_WEIGHTS", "# --- advantages"),
    "a new schedule": new_entry(OBJECTIVE, "MU_SCHEDULES", "# --- how much each"),
    "a new reward": new_entry(GRADERS, "REWARDS", "def reward("),
    "a new grader": new_entry(GRADERS, "GRADERS", "class Grader:"),
    "another import style": edit(
        ("chord/training/rollouts.py", "from chord.settings import derive\n", "from chord import settings as seeds\n"),
        ("chord/training/rollouts.py", "derive(seed", "seeds.derive(seed"),
        ("chord/training/rollouts.py", "derive(self", "seeds.derive(self"),
        ("chord/training/rollouts.py", "import numpy as np", "import numpy"),
        ("chord/training/rollouts.py", "np.random.Generator(np.random", "numpy.random.Generator(numpy.random"),
    ),
    "an annotation": edit((OBJECTIVE, "def shaped_imitation(logp: Tensor, ", 'def shaped_imitation(logp: "object", ')),
    "a docstring": edit((OBJECTIVE, '"""phi of each token."""', '"""phi."""')),
    "a comment": edit((OBJECTIVE, "        return p * (1 - p)\n", "        return p * (1 - p)  # eq. 5\n")),
    "the description of a field": edit((OBJECTIVE, "mu, from 0 to 1", "mu, a share")),
    "words of an error": edit((OBJECTIVE, "found rewards of shape", "found rewards shaped")),
    "what keeps records": edit(("chord/provenance/manifest.py", "[:500]", "[:600]")),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "chord", tmp_path / "chord", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed(tree: Path) -> set[str]:
    """The jobs of the demo whose code means another thing in a tree than here."""
    return {
        key
        for key, one in EXPECTED.items()
        if job_code(one.verb, one.uses, tree).digest != job_code(one.verb, one.uses).digest
    }


@pytest.mark.parametrize("case", NOTHING)
def test_an_edit_that_changes_no_job_plans_none(tree: Path, case: str) -> None:
    NOTHING[case](tree)
    assert changed(tree) == set()


def trained(**uses: str) -> set[str]:
    """The trainings that use these entries of plug points."""
    wanted = {name.replace("_", " "): entry for name, entry in uses.items()}
    return {
        key
        for key, one in EXPECTED.items()
        if one.verb == "chord train" and all(entry in one.uses[name] for name, entry in wanted.items())
    }


def jobs_of(*verbs: str) -> set[str]:
    return {key for key, one in EXPECTED.items() if one.verb.removeprefix("chord ").replace("-", "_") in verbs}


EXACTLY: dict[str, tuple[Edit, set[str]]] = {
    "the default of a field": (
        edit((OBJECTIVE, "default=0, description", "default=1, description")),
        trained(mu_schedule="decay"),
    ),
    "a base class": (
        edit((OBJECTIVE, "return step.state\n\n    def shares", "return dict(step.state)\n\n    def shares")),
        trained(),
    ),
    "a default argument": (
        edit(("chord/training/checkpoint.py", "KEEP = ", "KEEP = 0 + ")),
        trained(),
    ),
    "a constant of a reward": (
        edit((GRADERS, "Outcome.UNPARSABLE: -0.1,", "Outcome.UNPARSABLE: -0.2,")),
        trained(reward="paper-math"),
    ),
    "a decorator": (
        edit((GRADERS, "def marked_text(text", "@cache\ndef marked_text(text")),
        trained(grader="marked-text") | jobs_of("score", "validate"),
    ),
    "a helper two calls deep": (
        edit((GRADERS, '("Cc", "Cf", "Cs", "Co", "Cn")', '("Cc", "Cf", "Cs", "Co")')),
        trained(grader="marked-text") | jobs_of("score", "validate"),
    ),
    "the body of an entry": (edit((OBJECTIVE, "if total > 0 else", "if total > 0.0 else")), trained(method="sasr")),
    "a nested function": (
        edit(("chord/evaluation/generate.py", "return Result(lines, ", 'return Result(lines + "", ')),
        jobs_of("generate"),
    ),
    "the policy gradient": (
        edit((OBJECTIVE, "return TokenSum(-gain.sum()", "return TokenSum(-1 * gain.sum()")),
        trained(branch="rollouts"),
    ),
    "imitation": (
        edit((OBJECTIVE, "TokenSum(-(weight * logp)", "TokenSum(-1 * (weight * logp)")),
        trained(branch="experts"),
    ),
    "the other grader": (edit(("chord/grading/math_values.py", "DIGITS = ", "DIGITS = 0 + ")), set()),
    "what reads config/, whose marked comments the page shows": (
        edit(("chord/config/reading.py", "DEEPEST + 1", "1 + DEEPEST")),
        jobs_of("report"),
    ),
}


@pytest.mark.parametrize("case", EXACTLY)
def test_an_edit_changes_exactly_the_jobs_that_reach_it(tree: Path, case: str) -> None:
    change, expected = EXACTLY[case]
    change(tree)
    assert changed(tree) == expected


def test_the_code_of_this_project_can_be_followed() -> None:
    assert unfollowed(package_of(str(PROJECT), "chord")) == []


UNFOLLOWED = {
    "from p.b import *": "found a star import of p.b",
    "import importlib": "found importlib, which finds modules by a name",
    "from importlib import import_module": "found importlib.import_module",
    "import runpy": "found runpy",
    "def f(name):\n    return __import__(name)": "found __import__",
    "def f(text):\n    return eval(text)": "found eval",
    "from p import b\ndef f(name):\n    return getattr(b, name)": "found getattr on a definition",
    "import p.b\ndef f(name):\n    return getattr(p.b, name)": "found getattr on a definition",
    "from p.b import Thing\ndef f(name):\n    return getattr(Thing, name)": "found getattr on a definition",
    "from p import b\ndef f():\n    return [b]": "found module p.b as a value",
    "import sys\ndef f(name):\n    return sys.modules[name]": "found sys.modules",
    "KNOWN = {}\ndef f(x):\n    KNOWN[x] = 1": "found a change of a definition from outside",
    "from p import b\ndef f(x):\n    b.KNOWN[x] = 1": "found a change of a definition from outside",
    "from p import b\ndef f(x):\n    b.LIMIT = x": "found a change of a definition from outside",
    "KNOWN = []\ndef f(x):\n    KNOWN.append(x)": "found .append() on a value of a module",
    "COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1": "found global COUNT",
    "import json\njson.dumps(1)": "found work that is done on import",
    "KNOWN = {}\nfor x in (1, 2):\n    KNOWN[x] = x": "found work that is done on import",
    "KNOWN = {}\nKNOWN['a'] = 1": "found work that is done on import",
    "from p.b import POINT\n@POINT.entry('x')\ndef f():\n    pass": "found an entry of POINT from another module",
    "import sys\nCOMMAND = [sys.executable, '-m', 'p.b']": "found the name of a module after -m",
}


@pytest.mark.parametrize("source", UNFOLLOWED)
def test_code_that_cannot_be_followed_is_refused_and_a_reason_lets_it_through(tmp_path: Path, source: str) -> None:
    b = "from p.reach import PlugPoint\nKNOWN = {}\nLIMIT = 1\nPOINT = PlugPoint('x')\nclass Thing:\n    a = 1\n"
    root = package(tmp_path, a=source, b=b)
    found = unfollowed(package_of(str(root), "p"))
    assert [one for one in found if one.what.startswith(UNFOLLOWED[source])], found
    allowed = package(
        tmp_path / "allowed", a=source.replace("\n", "  # not followed: a test\n") + "  # not followed: it", b=b
    )
    assert unfollowed(package_of(str(allowed), "p")) == []


def test_ordinary_code_is_let_through(tmp_path: Path) -> None:
    source = (
        "import json\nfrom importlib.metadata import version\nfrom importlib.util import find_spec\nLIMIT = {'a': 1}\n"
        "try:\n    import yaml\nexcept ImportError:\n    yaml = None\n"
        "def f(x, name):\n    found = dict(LIMIT)\n    found[x] = 1\n    x.y = 2\n    found.update(a=1)\n"
        "    return getattr(x, name), vars(x), json.dumps(found)\n"
    )
    root = package(tmp_path, a=source)
    assert unfollowed(package_of(str(root), "p")) == []
