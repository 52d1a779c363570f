"""Study math is planned whole before anything is fetched, and says what to fetch when it is run."""

import re
import sys
from pathlib import Path

import pytest

from chord.config.project import load
from chord.steps import Dag
from tests import warm
from tests.workflow.expected import ARMS, IN_TABLE, imitates_only, lineage, recipe
from tests.workflow.test_sources import jobs
from tests.workflow.tree import ROOT, copied, snakemake

SEEDS, BENCHMARKS, SHOWN = 3, 5, 4  # MATH-500 is in no table: it is drawn, so that no problem overlaps it


def test_table1_of_math_is_planned_without_a_lock_file(tmp_path: Path) -> None:
    arms = set().union(*map(lineage, IN_TABLE))
    trained = [arm for arm in arms if recipe(arm)]
    chosen = [arm for arm in arms if "choose" in ARMS[arm]]
    candidates = {one for arm in chosen for one in ARMS[arm]["choose"]}
    assert jobs(copied(tmp_path / "project"), "math") == {
        "adopt": 1,
        "prepare": 3,  # expert, validation, train
        "prepare_benchmark": BENCHMARKS,  # all: no training problem may overlap one
        "demonstrate": 2,  # expert; aligned for luffy
        "describe_run": len(trained) * SEEDS,
        "train_sft": sum(map(imitates_only, trained)) * SEEDS,
        "train": sum(not imitates_only(arm) for arm in trained) * SEEDS,
        "validate": len(candidates) * SEEDS,
        "choose": len(chosen) * SEEDS,
        "generate": len(IN_TABLE) * SEEDS * SHOWN,
        "score": len(IN_TABLE) * SEEDS * SHOWN,
        "tabulate": 1,
        "table1": 1,
        "total": 331,
    }


OTHERS = {  # what each takes beside the data and the study's own model
    "table8": {"adopt": 2, "train_sft": 3, "train": 9, "demonstrate": 1, "prepare": 3, "generate": 60, "tabulate": 1},
    "figure13": {"adopt": 2, "train": 6, "demonstrate": 1, "prepare": 3, "plot": 1},
    "appendixd3": {
        "adopt": 1,
        "train_sft": 12,
        "train": 6,
        "demonstrate": 2,
        "prepare": 4,
        "generate": 60,
        "choose": 3,
    },
    "table11": {"adopt": 1, "train_sft": 12, "train": 21, "generate": 30, "score": 30, "prepare": 3, "tabulate": 1},
}


@pytest.mark.parametrize("target", OTHERS)
def test_other_models_sets_and_categories_are_planned_from_the_hub(tmp_path: Path, target: str) -> None:
    found = jobs(copied(tmp_path / "project"), "math", target)
    assert {name: found.get(name) for name in OTHERS[target]} == OTHERS[target]
    assert not {"train_base", "unpack"} & found.keys()


def test_what_is_expected_of_a_study_with_other_models_is_what_the_rules_make(tmp_path: Path) -> None:
    chosen = ["table8", "appendixd3", "table11"]
    told = snakemake(copied(tmp_path / "project"), "--summary", "--config", "study=math", f"artefacts={chosen}")
    assert told.returncode == 0, told.stdout
    made = set(re.findall(r"^results/math/(\S+\.manifest\.json)", told.stdout, flags=re.MULTILINE))
    planned = Dag(load(ROOT, "math", given={"artefacts": chosen})).planned
    assert made == {key for key, job in planned.items() if job.step.verb}
    assert {"models/base/adopt.manifest.json", "models/base-weak/adopt.manifest.json"} <= made
    assert "models/base-untuned/adopt.manifest.json" not in made


def test_a_set_is_drawn_beside_the_sets_before_it_and_all_benchmarks(tmp_path: Path) -> None:
    told = snakemake(copied(tmp_path / "project"), "-n", "-p", "--config", "study=math", "--", "table1")
    (command,) = re.findall(r"python -m chord prepare .*--set train .*", told.stdout)
    data = "results/math/data"
    assert f"--apart-from {data}/problems/expert.jsonl {data}/problems/validation.jsonl --benchmarks" in command
    benchmarks = ("amc", "aime24", "aime25", "mmlu-pro", "math-500")
    assert " ".join(f"{data}/benchmarks/{name}.jsonl" for name in benchmarks) in command
    assert "--tokenizer results/math/models/base/model" in command
    (command,) = re.findall(r"python -m chord prepare .*--set expert .*", told.stdout)
    assert "--apart-from" not in command
    answering = re.findall(r"python -m chord generate .*", told.stdout)
    assert len(answering) == len(IN_TABLE) * SEEDS * SHOWN
    assert all("--ahead amc=" in one or "--benchmark amc" in one for one in answering)
    assert not any("math-500" in one for one in answering)


def test_without_what_is_fetched_each_first_job_says_what_to_run(tmp_path: Path) -> None:
    folder = copied(tmp_path / "project")
    for verb, arguments in {
        "adopt": ["--model", "model", "--manifest", "results/math/models/base/adopt.manifest.json"],
        "prepare": ["--set", "benchmark:amc", "--problems", "problems.jsonl", "--counts", "counts.json"],
    }.items():
        command = [sys.executable, "-m", "chord", verb, "--study", "math", *arguments]
        done = warm.run(command, cwd=folder, timeout=120)
        assert done.returncode == 2
        assert "found no lock file config/locks/math.json" in done.stderr
        assert "run `chord fetch --study math` where there is a network" in done.stderr
        assert len(done.stderr.splitlines()) == 1
