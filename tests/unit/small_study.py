"""Studies for tests: the demo's with small splits and tasks that no tuning of the demo changes, and study small."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import warm
from tests.conftest import made_once
from tests.projects import ROOT, set_values, study_file

TASKS: dict[str, Any] = {
    f"sum-{digits}": {
        "dataset": "chain_sum",
        "settings": {"min_terms": 2, "max_terms": 2, "min_digits": digits, "max_digits": digits},
        "keep": "sums",
        "prompt": "{expression}",
    }
    for digits in (1, 2, 3, 4)
} | {"reversal": {"dataset": "spell_backward", "settings": {"min_word_len": 3, "max_word_len": 5}, "prompt": "~{word}"}}
PARTS = [
    {"task": "sum-3", "style": "terse", "share": 0.5},
    *({"task": f"sum-{digits}", "style": "worked", "share": 0.1} for digits in (1, 2, 3, 4)),
    {"task": "reversal", "style": "terse", "share": 0.1},
]
BENCHMARKS = {"in-distribution": "sum-3", "harder": "sum-4", "other-skill": "reversal"}


def write_study(project: Path, **changes: object) -> Path:
    """The study's file in a config folder of its own. `rollouts__per_prompt=2` changes rollouts.per_prompt."""
    file = study_file(
        project,
        "demo",
        model__alphabet="0123456789+-=>:,;~abcdefghijklmnopqrstuvwxyz",
        tasks=TASKS,
        other_models={},
        other_experts={},
        data__train={"task": "sum-3", "size": 40},
        data__expert={"task": "sum-3", "size": 20},
        data__aligned_traces=True,
        data__by_seed=False,
        base_corpus__size=2000,
        base_corpus__parts=PARTS,
        expert__style="checked",
        rollouts__max_response_tokens=100,
        rollouts__max_prompt_tokens=32,
        **{f"benchmarks__{name}__problems": {"task": task, "size": 5} for name, task in BENCHMARKS.items()},
    )
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    study["data"]["validation"] = {"task": "sum-3", "size": study["validation"]["problems"]}
    file.write_text(yaml.safe_dump(set_values(study, **changes)), encoding="utf-8")
    return file


def write_smollm2(project: Path, changes: dict[str, dict[str, Any]], **values: Any) -> Path:
    """The file of study small, with `changes` by section and `values` at the top; a number in `data` is a size."""
    inner = {
        f"{part}__{key}" + ("__size" if part == "data" and isinstance(value, int) else ""): value
        for part, news in changes.items()
        for key, value in news.items()
    }
    return study_file(project, "small", **inner, **values)


def smollm2(factory: pytest.TempPathFactory, project: Path) -> None:
    """Puts SmolLM2-135M into `project`, as `base` with unpack.manifest.json, and its problems to train and validate.

    Unpacked and drawn once for all processes that share the tests, by the study's own file with small splits.
    """

    def build(folder: Path) -> None:
        study = write_smollm2(folder, {"data": {"train": 8, "validation": 2}, "validation": {"problems": 2}})
        files = ("--model", folder / "base", "--manifest", folder / "unpack.manifest.json")
        run("unpack", "--study", study, *files, code=0)
        prepare(study, folder, "train", "validation")

    made = made_once(factory, "smollm2", build)
    for name in ("base", "unpack.manifest.json"):
        (project / name).symlink_to(made / name)
    shutil.copytree(made / "problems", project / "problems")


def run(verb: str, *arguments: object, code: int | None = None) -> subprocess.CompletedProcess[str]:
    """The verb as a person would type it, at the root of the project; see `of_study` for `--study FILE`.

    With `code` it must have ended with that exit code: with 0, or with one line of complaint.
    """
    # A busy machine is no fault; pytest's own limit is 600.
    done = warm.run([sys.executable, "-m", "chord", verb, *of_study(arguments)], cwd=ROOT, timeout=580)
    assert code in (None, done.returncode), done.stderr
    assert not code or len(done.stderr.splitlines()) == 1, done.stderr
    return done


def of_study(arguments: Iterable[object]) -> list[str]:
    """The words of a command line; `--study PROJECT/config/studies/NAME.yaml` becomes `--study NAME --root PROJECT`."""
    words = list(map(str, arguments))
    for at in [number for number, word in enumerate(words) if word == "--study"][::-1]:
        file = Path(words[at + 1])
        if file.suffix == ".yaml":
            words[at + 1 : at + 2] = [file.stem, "--root", str(file.absolute().parents[2])]
    return words


def prepare(study: Path, data: Path, *sets: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """chord prepare for each set, with files and manifests under `data` as in a results folder."""
    for name in sets:
        place = data / ("benchmarks" if ":" in name else "problems") / name.removeprefix("benchmark:")
        done = run("prepare", "--study", study, "--set", name, *_files("problems", place), code=code)
    return done


def demonstrate(
    study: Path, problems: Path, data: Path, *traces: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """chord demonstrate for each set of traces; `problems` is a folder that `prepare` filled."""
    for name in traces:
        source = problems / f"{'train' if name == 'aligned' else name}.jsonl"
        given = ("--study", study, "--traces-of", name, "--problems", source)
        done = run("demonstrate", *given, *_files("traces", data / "traces" / name), code=code)
    return done


def _files(what: str, place: Path) -> tuple[object, ...]:
    return (f"--{what}", f"{place}.jsonl", "--counts", f"{place}.json", "--manifest", f"{place}.manifest.json")
