"""Property: the code digest changes with the meaning of any module that can be reached, and with nothing else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from chord.provenance import digest
from chord.provenance.digest import code_closure, code_digest, deciding_code, digest_of
from chord.provenance.files import UserError

PROJECT = Path(__file__).resolve().parents[2]


def package(root: Path, **modules: str) -> Path:
    """A package `p` with these modules (`a__b` is p/a/b.py), each folder with an empty `__init__`."""
    for name, source in {"__init__": "", **modules}.items():
        path = root.joinpath("p", *name.split("__")) if name != "__init__" else root / "p" / "__init__"
        path.parent.mkdir(parents=True, exist_ok=True)
        init = path.parent / "__init__.py"
        if not init.exists():
            init.write_text("")
        path.with_name(path.name + ".py").write_text(source)
    return root


def meaning(source: str) -> str:
    return digest._parsed(source.encode(), "x", "", ()).digest


@pytest.mark.parametrize(
    "same",
    [
        "def f(x):\n    return x + 1\n",
        "# a comment\ndef f(x):  # another\n    return x + 1\n",
        "def f(x):\n    'What the caller gets.'\n    return x + 1\n",
        '"""The module."""\n\n\ndef f(\n    x,\n):\n    return (x\n        + 1)\n',
    ],
)
def test_comments_docstrings_and_formatting_mean_nothing(same):
    assert meaning(same) == meaning("def f(x): return x+1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = True"),
        ("x = 1", "x = 1.0"),
        ("x = '1'", "x = b'1'"),
        ("x = '1'", "x = 1"),
        ("x = 'a'", "x = 'b'"),
        ("x = a < b", "x = a <= b"),
        ("x = a - b", "x = b - a"),
        ("f(1)\ng(2)", "g(2)\nf(1)"),
        ("def f(): return None", "def f(): pass"),
        ("def f(a, b=1): pass", "def f(a=1, b=1): pass"),
        ("def f(a): pass", "def f(*, a): pass"),
        ("x = {**a}", "x = {a: a}"),
        ("x = y[1:]", "x = y[:1]"),
        ("@cache\ndef f(): pass", "def f(): pass"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
        ("async def f(): pass", "def f(): pass"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x: int = 1", "x: float = 1"),
        ("assert x", ""),
        ("x = 'a'\n'not a docstring'", "x = 'a'"),
    ],
)
def test_what_changes_the_meaning_changes_the_digest(one, other):
    assert meaning(one) != meaning(other)


def test_real_code_means_the_same_when_it_is_printed_anew():
    for name in ("json/decoder.py", "argparse.py", "dataclasses.py", "textwrap.py", "statistics.py", "enum.py"):
        source = Path(ast.__file__).parent.joinpath(name).read_text()
        assert meaning(source) == meaning(ast.unparse(ast.parse(source)))
        assert meaning(source) != meaning(source + "\nx = 1\n")


@pytest.mark.parametrize(
    "way",
    [
        "import p.b",
        "import p.b as q",
        "from p import b",
        "from p.b import f",
        "from p.b import *",
        "from . import b",
        "from .b import f",
        "def g():\n    from p.b import f",
        "class A:\n    def g(self):\n        import p.b",
        "try:\n    import p.b\nexcept ImportError:\n    pass",
        "subprocess.run([sys.executable, '-m', 'p.b', 'x'])",
        "importlib.import_module('p.b')",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import p.b",
    ],
)
def test_every_way_to_import_a_module_reaches_it(tmp_path, way):
    root = package(tmp_path, a=way, b="import p.c\nx = 1", c="x = 1", d="x = 1")
    before = code_closure("p.a", root)
    assert list(before) == ["p", "p.a", "p.b", "p.c"]
    (root / "p" / "c.py").write_text("x = 2")
    assert digest_of(code_closure("p.a", root)) != digest_of(before)


def test_what_is_not_reached_does_not_count(tmp_path):
    root = package(tmp_path, a="import json\nif typing.TYPE_CHECKING:\n    import p.d", d="x = 1", ab="x = 1")
    assert list(code_closure("p.a", root)) == ["p", "p.a"]


def test_the_init_of_every_package_on_the_way_counts_and_circles_end(tmp_path):
    root = package(
        tmp_path, a="import p.room.noun", room____init__="import p.b", room__noun="import p.a", b="import p.a"
    )
    (root / "p" / "room" / "__init__.py").write_text("import p.b")
    assert list(code_closure("p.a", root)) == ["p", "p.a", "p.b", "p.room", "p.room.noun"]


def test_a_relative_import_in_a_package_starts_at_the_package(tmp_path):
    root = package(tmp_path, a="import p.room", room__noun="from ..b import x", b="x = 1")
    (root / "p" / "room" / "__init__.py").write_text("from .noun import x")
    assert list(code_closure("p.a", root)) == ["p", "p.a", "p.b", "p.room", "p.room.noun"]


def test_what_is_left_out_is_left_out_with_what_it_alone_imports(tmp_path):
    root = package(
        tmp_path, a="import p.luffy, p.room.noun, p.rooms", luffy="import p.b", b="x = 1", room__noun="", rooms=""
    )
    assert list(code_closure("p.a", root, without=("p.luffy", "p.room"))) == ["p", "p.a", "p.rooms"]


def test_one_name_of_a_module_can_be_left_out(tmp_path):
    source = "def plain(p): return p\ndef phi(p):\n    import p.b\n    return p * (1 - p)\nX = 1\nX, Y = 1, 2\n"
    root = package(tmp_path, a="import p.weights", weights=source, b="x = 1")

    def seen(without=("p.weights:phi",)):
        return digest_of(code_closure("p.a", root, without))

    before, with_phi = seen(), seen(())
    assert "p.b" not in code_closure("p.a", root, ("p.weights:phi",))
    (root / "p" / "weights.py").write_text(source.replace("(1 - p)", "(2 - p)"))
    assert seen() == before
    assert seen(()) != with_phi
    (root / "p" / "weights.py").write_text(source.replace("return p\n", "return 2 * p\n"))
    assert seen() != before
    (root / "p" / "weights.py").write_text(source.replace("X, Y = 1, 2", "X, Y = 1, 3"))
    assert seen(("p.weights:phi", "p.weights:X")) != before


def test_the_place_of_the_project_does_not_count(tmp_path):
    modules = {"a": "import p.b", "b": "x = 1"}
    one, other = package(tmp_path / "one", **modules), package(tmp_path / "o t h e r", **modules)
    assert code_digest("p.a", root=one) == code_digest("p.a", root=other)


def test_code_moved_from_one_module_to_another_counts(tmp_path):
    one = package(tmp_path / "one", a="import p.b, p.c", b="x = 1", c="")
    other = package(tmp_path / "other", a="import p.b, p.c", b="", c="x = 1")
    assert code_digest("p.a", root=one) != code_digest("p.a", root=other)
    assert digest_of({"p.a": "1"}) != digest_of({"p.b": "1"})


def test_an_edit_of_the_same_length_within_the_same_instant_is_seen(tmp_path):
    root = package(tmp_path, a="x = 1")
    before = code_closure("p.a", root)
    (root / "p" / "a.py").write_text("x = 2")
    assert code_closure("p.a", root) != before


def test_a_module_that_is_absent_or_cannot_be_parsed_is_named_with_its_line(tmp_path):
    root = package(tmp_path, a="import p.b", b="x = 1\ndef f(:\n")
    with pytest.raises(UserError, match=r"b\.py: line 2: found code that Python cannot parse"):
        code_closure("p.a", root)
    with pytest.raises(UserError, match=r"p\.absent: found no such module"):
        code_closure("p.absent", root)


@pytest.mark.parametrize("module", ["chord.config", "chord.provenance.manifest", "chord.provenance.lease"])
def test_python_loads_nothing_of_the_package_that_the_closure_does_not_name(module):
    code = f"import {module}, sys, json; print(json.dumps([m for m in sys.modules if m.split('.')[0] == 'chord']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= set(code_closure(module))


def test_each_module_is_parsed_once_in_a_process_however_many_digests_are_asked_for():
    digest._parsed.cache_clear()
    deciding_code.cache_clear()
    modules = code_closure("chord.train")
    parsed = digest._parsed.cache_info().misses
    assert len(modules) > 20 and parsed == len(modules)
    for _ in range(3):
        code_digest("chord.train")
    assert digest._parsed.cache_info().misses == parsed


def test_what_reads_config_or_keeps_records_decides_no_result_and_all_of_it_exists():
    everything = code_closure("chord.train") | code_closure("chord.report")
    deciding = deciding_code("chord.train")
    for module in digest.DECIDES_NOTHING:
        assert module not in deciding
        assert (PROJECT / f"{module.replace('.', '/')}.py").is_file(), module
    assert {"chord.provenance.manifest", "chord.provenance.ledger"} <= everything.keys() - deciding.keys()
    assert {"chord.provenance.files", "chord.config.recipe", "chord.objective.losses"} <= deciding.keys()
