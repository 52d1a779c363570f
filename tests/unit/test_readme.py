"""What the READMEs name exists, and what exists is named; what CONTRIBUTING.md shows is trained."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.small_run import command, small_run

ROOT = Path(__file__).resolve().parents[2]


def test_each_test_file_begins_with_the_property_that_it_holds() -> None:
    files = sorted((ROOT / "tests").glob("*/test_*.py"))
    first = {path.name: path.read_text(encoding="utf-8").partition("\n")[0] for path in files}
    assert [name for name, line in first.items() if not re.fullmatch(r'""".{20,}[.:](""")?', line)] == []


def test_every_path_of_the_repository_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\b(?:config|chord|envs|workflow|profiles|tests)/[\w./-]*[\w/]", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_option_that_the_readme_gives_to_training_is_one_that_training_knows() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"python -m chord train(.*?[^\\])\n", text, re.DOTALL)
    assert command
    known = (ROOT / "chord" / "training" / "setup.py").read_text(encoding="utf-8")
    assert [option for option in re.findall(r"--(\w+)", command[1]) if f'("{option}", ' not in known] == []


def test_the_weight_and_the_schedule_that_contributing_shows_are_trained_with_no_other_file_touched(
    tmp_path: Path,
) -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) == 2
    shutil.copytree(ROOT / "chord", tmp_path / "chord", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "chord/objective.py").open("a", encoding="utf-8") as objective:
        objective.write("".join(f"\n\n{block}" for block in shown))
    run = small_run(tmp_path / "run", **{"recipe.steps": 4}) / "run.json"
    arguments = [sys.executable, "-m", "chord", "train", *command(tmp_path / "run", tmp_path / "out")]
    told = json.loads(run.read_text())
    told["recipe"]["mu"] = {"schedule": "half-life", "start": 0.8, "steps": 2}
    told["recipe"]["expert_tokens"] = {"weight": "p-power", "power": 0.5}
    run.write_text(json.dumps(told))
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]
    assert [line["mu"] for line in steps] == pytest.approx([0.8, 0.8 * 0.5**0.5, 0.4, 0.4 * 0.5**0.5])
    assert all(0 < line["phi_mean"] < 1 for line in steps)
    uses = json.loads((tmp_path / "out/train.manifest.json").read_text())["code"]["uses"]
    assert (uses["mu schedule"], uses["token weight"]) == (["half-life"], ["p-power"])
