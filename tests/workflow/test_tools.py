"""Study tools is planned whole before anything is fetched; its benchmark needs no hub."""

from pathlib import Path

from tests.workflow.expected import ARMS, IN_TABLE, imitates_only, lineage, recipe
from tests.workflow.test_sources import jobs
from tests.workflow.tree import copied

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
