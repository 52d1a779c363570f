"""Study math is planned whole before anything is fetched, and says what to fetch when it is run."""

import re
import subprocess
import sys
from pathlib import Path

from tests.workflow.expected import ARMS, IN_TABLE, imitates_only, lineage, recipe
from tests.workflow.test_sources import jobs
from tests.workflow.tree import copied, snakemake

SEEDS, BENCHMARKS = 3, 5


def test_table1_of_math_is_planned_without_a_lock_file(tmp_path: Path) -> None:
    arms = set().union(*map(lineage, IN_TABLE))
    trained = [arm for arm in arms if recipe(arm)]
    chosen = [arm for arm in arms if "choose" in ARMS[arm]]
    candidates = {one for arm in chosen for one in ARMS[arm]["choose"]}
    assert jobs(copied(tmp_path / "project"), "math") == {
        "adopt_base": 1,
        "prepare": 3,  # expert, validation, train
        "prepare_benchmark": BENCHMARKS,  # all: no training problem may overlap one
        "demonstrate": 2,  # expert; aligned for luffy
        "describe_run": len(trained) * SEEDS,
        "train_sft": sum(map(imitates_only, trained)) * SEEDS,
        "train": sum(not imitates_only(arm) for arm in trained) * SEEDS,
        "validate": len(candidates) * SEEDS,
        "choose": len(chosen) * SEEDS,
        "generate": len(IN_TABLE) * SEEDS * BENCHMARKS,
        "score": len(IN_TABLE) * SEEDS * BENCHMARKS,
        "tabulate": 1,
        "table1": 1,
        "total": 391,
    }


def test_a_set_is_drawn_beside_the_sets_before_it_and_all_benchmarks(tmp_path: Path) -> None:
    told = snakemake(copied(tmp_path / "project"), "-n", "-p", "--config", "study=math", "--", "table1")
    (command,) = re.findall(r"python -m chord\.prepare .*--set train .*", told.stdout)
    data = "results/math/data"
    assert f"--apart-from {data}/problems/expert.jsonl {data}/problems/validation.jsonl --benchmarks" in command
    benchmarks = ("amc", "aime24", "aime25", "mmlu-pro", "math-500")
    assert " ".join(f"{data}/benchmarks/{name}.jsonl" for name in benchmarks) in command
    assert "--tokenizer results/math/models/base/model" in command
    (command,) = re.findall(r"python -m chord\.prepare .*--set expert .*", told.stdout)
    assert "--apart-from" not in command


def test_without_what_is_fetched_each_first_job_says_what_to_run(tmp_path: Path) -> None:
    folder = copied(tmp_path / "project")
    for verb, arguments in {
        "adopt": ["--model", "model", "--manifest", "results/math/models/base/adopt.manifest.json"],
        "prepare": ["--set", "benchmark:amc", "--problems", "problems.jsonl", "--counts", "counts.json"],
    }.items():
        command = [sys.executable, "-m", f"chord.{verb}", "--study", "config/studies/math.yaml", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert "found no lock file config/locks/math.json" in done.stderr
        assert "run `chord fetch --study math` where there is a network" in done.stderr
        assert len(done.stderr.splitlines()) == 1
