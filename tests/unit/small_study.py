"""A study for tests: the demo's file with small splits, and with tasks and parts that no tuning of the demo changes."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import warm
from tests.conftest import made_once
from tests.mini_study import edit_yaml

ROOT = Path(__file__).parents[2]
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


def change(content: dict[str, Any], changes: Mapping[str, object]) -> None:
    """Sets values in nested dictionaries; `rollouts__per_prompt: 2` sets rollouts.per_prompt."""
    for place, value in changes.items():
        *above, last = place.split("__")
        node = content
        for key in above:
            node = node[key]
        node[last] = value


def write_study(project: Path, **changes: object) -> Path:
    """The study's file in a config folder of its own, with `changes` made by `change`."""
    shutil.copytree(ROOT / "config", project / "config", dirs_exist_ok=True)
    file = project / "config" / "studies" / "demo.yaml"
    study: dict[str, Any] = yaml.safe_load((ROOT / "config" / "studies" / "demo.yaml").read_text())
    study["model"]["alphabet"] = "0123456789+-=>:,;~abcdefghijklmnopqrstuvwxyz"
    study["tasks"] = TASKS
    study |= {"other_models": {}, "other_experts": {}}
    study["data"] |= {name: {"task": "sum-3", "size": size} for name, size in (("train", 40), ("expert", 20))}
    study["data"] |= {"validation": {"task": "sum-3", "size": study["validation"]["problems"]}, "aligned_traces": True}
    study["base_corpus"] |= {"size": 2000, "parts": PARTS}
    study["expert"]["style"] = "checked"
    study["rollouts"] |= {"max_response_tokens": 100, "max_prompt_tokens": 32}
    for (name, benchmark), task in zip(study["benchmarks"].items(), ("sum-3", "sum-4", "reversal"), strict=True):
        study["benchmarks"][name] = benchmark | {"problems": {"task": task, "size": 5}}
    file.write_text(yaml.safe_dump(study))
    edit_yaml(file, **changes)
    return file


def write_smollm2(project: Path, changes: dict[str, dict[str, Any]], **values: Any) -> Path:
    """The file of study small in a config folder of its own, with `changes` by section and `values` at the top."""
    (project / "config" / "studies").mkdir(parents=True)
    for name in ("arms.yaml", "claims.yaml", "config.yaml", "experiments", "benchmarks"):
        (project / "config" / name).symlink_to(ROOT / "config" / name)
    study = yaml.safe_load((ROOT / "config" / "studies" / "small.yaml").read_text(encoding="utf-8"))
    for part, news in changes.items():
        for key, value in news.items():
            size = value if isinstance(value, dict) else {"size": value}
            study[part][key] = study[part][key] | size if part == "data" else value
    file = project / "config" / "studies" / "small.yaml"
    file.write_text(yaml.safe_dump(study | values), encoding="utf-8")
    return file


def smollm2(factory: pytest.TempPathFactory, project: Path) -> None:
    """Puts SmolLM2-135M into `project`, as `base` with unpack.manifest.json, and its problems to train and validate.

    Unpacked and drawn once for all processes that share the tests, by the study's own file with small splits.
    """

    def build(folder: Path) -> None:
        study = write_smollm2(folder, {"data": {"train": 8, "validation": 2}, "validation": {"problems": 2}})
        files = ("--model", folder / "base", "--manifest", folder / "unpack.manifest.json")
        for done in (run("unpack", "--study", study, *files), prepare(study, folder, "train", "validation")):
            assert done.returncode == 0, done.stderr

    made = made_once(factory, "smollm2", build)
    for name in ("base", "unpack.manifest.json"):
        (project / name).symlink_to(made / name)
    shutil.copytree(made / "problems", project / "problems")


def run(verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The verb as a person would type it, at the root of the project; see `of_study` for `--study FILE`."""
    # A busy machine is no fault; pytest's own limit is 600.
    return warm.run([sys.executable, "-m", "chord", verb, *of_study(arguments)], cwd=ROOT, timeout=580)


def of_study(arguments: Iterable[object]) -> list[str]:
    """The words of a command line; `--study PROJECT/config/studies/NAME.yaml` becomes `--study NAME --root PROJECT`."""
    words = list(map(str, arguments))
    for at in [number for number, word in enumerate(words) if word == "--study"][::-1]:
        file = Path(words[at + 1])
        if file.suffix == ".yaml":
            words[at + 1 : at + 2] = [file.stem, "--root", str(file.absolute().parents[2])]
    return words


def prepare(study: Path, data: Path, *sets: str) -> subprocess.CompletedProcess[str]:
    """chord prepare for each set until one fails, with files and manifests under `data` as in a results folder."""
    for name in sets:
        place = data / ("benchmarks" if ":" in name else "problems") / name.removeprefix("benchmark:")
        files = ("--problems", f"{place}.jsonl", "--counts", f"{place}.json", "--manifest", f"{place}.manifest.json")
        done = run("prepare", "--study", study, "--set", name, *files)
        if done.returncode != 0:
            break
    return done


def demonstrate(study: Path, problems: Path, data: Path, *traces: str) -> subprocess.CompletedProcess[str]:
    """chord demonstrate for each set of traces until one fails; `problems` is a folder that `prepare` filled."""
    for name in traces:
        place, source = data / "traces" / name, problems / f"{'train' if name == 'aligned' else name}.jsonl"
        files = ("--traces", f"{place}.jsonl", "--counts", f"{place}.json", "--manifest", f"{place}.manifest.json")
        done = run("demonstrate", "--study", study, "--traces-of", name, "--problems", source, *files)
        if done.returncode != 0:
            break
    return done
