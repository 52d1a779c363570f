"""Study tools is planned whole before anything is fetched; its benchmark needs no hub."""

import re
from pathlib import Path

import pytest

from chord.config.project import load
from chord.steps import Dag
from tests.workflow.expected import ARMS, IN_TABLE, imitates_only, lineage, recipe
from tests.workflow.test_sources import jobs
from tests.workflow.tree import ROOT, copied, snakemake

SEEDS = 3


def test_table1_of_tools_is_planned_without_a_lock_file(tmp_path: Path) -> None:
    arms = set().union(*map(lineage, IN_TABLE))
    trained = [arm for arm in arms if recipe(arm)]
    chosen = [arm for arm in arms if "choose" in ARMS[arm]]
    found = jobs(copied(tmp_path / "project"), "tools")
    found.pop("total")
    assert found == {
        "adopt": 1,
        "prepare": 3,  # expert, validation, train
        "prepare_benchmark": 1,  # BFCL
        "demonstrate": 2,  # expert; aligned for luffy
        "describe_run": len(trained) * SEEDS,
        "train_sft": sum(map(imitates_only, trained)) * SEEDS,
        "train": sum(not imitates_only(arm) for arm in trained) * SEEDS,
        "validate": len({one for arm in chosen for one in ARMS[arm]["choose"]}) * SEEDS,
        "choose": len(chosen) * SEEDS,
        "generate": len(IN_TABLE) * SEEDS,
        "score": len(IN_TABLE) * SEEDS,
        "tabulate": 1,
        "table1": 1,
    }


OTHERS = {
    "table6": {"adopt": 2, "ask_expert": 1, "train_sft": 18, "train": 21, "choose": 6, "generate": 21, "tabulate": 1},
    "table10": {"adopt": 1, "train_sft": 12, "train": 21, "generate": 30, "score": 30, "tabulate": 1},
}


@pytest.mark.parametrize("target", OTHERS)
def test_a_second_expert_is_fetched_and_asked_and_categories_need_no_more_answers(tmp_path: Path, target: str) -> None:
    found = jobs(copied(tmp_path / "project"), "tools", target)
    assert {name: found.get(name) for name in OTHERS[target]} == OTHERS[target]
    assert ("ask_expert" in found) is (target == "table6")


def test_the_second_experts_model_is_asked_for_its_traces_and_no_other(tmp_path: Path) -> None:
    folder = copied(tmp_path / "project")
    told = snakemake(folder, "-n", "-p", "--config", "study=tools", "--", "table6")
    (command,) = re.findall(r"python -m chord ask-expert .*", told.stdout)
    assert "--traces-of expert-second" in command
    assert "--expert results/tools/models/expert-second/model" in command
    assert "--problems results/tools/data/problems/expert.jsonl" in command
    assert "--of expert-second" in told.stdout
    made = snakemake(folder, "--summary", "--config", "study=tools", "artefacts=[table6]")
    manifests = set(re.findall(r"^results/tools/(\S+\.manifest\.json)", made.stdout, flags=re.MULTILINE))
    assert manifests == {
        key for key, job in Dag(load(ROOT, "tools", given={"artefacts": ["table6"]})).planned.items() if job.step.verb
    }
    assert "models/expert-second/adopt.manifest.json" in manifests
    assert "models/expert-second/adopt.manifest.json" not in Dag(load(ROOT, "tools")).planned
