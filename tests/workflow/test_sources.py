"""Where the base model of a study comes from decides the one rule that makes it."""

import re
from pathlib import Path

import pytest

from tests.workflow.expected import IN_TABLE, lineage, recipe
from tests.workflow.tree import copied, replace, snakemake

TRAINED = sum(bool(recipe(arm)) for arm in set().union(*map(lineage, IN_TABLE)))


def jobs(folder: Path, study: str) -> dict[str, int]:
    """How many jobs of each rule the next `snakemake table1` of the study would run."""
    told = snakemake(folder, "-n", "--config", f"study={study}", "--", "table1")
    assert told.returncode == 0, told.stdout
    counted = told.stdout.split("Job stats:", 1)[1].split("\n\n", 1)[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", counted, flags=re.MULTILINE)}


@pytest.mark.parametrize(
    ("study", "base", "other"),
    [("demo", {"describe_base", "train_base"}, {"unpack_base"}), ("small", {"unpack_base"}, {"train_base"})],
)
def test_a_study_has_the_jobs_of_its_own_source_once(tmp_path, study, base, other):
    found = jobs(copied(tmp_path / "project"), study)
    assert {name: found.get(name) for name in base} == dict.fromkeys(base, 1)
    assert not other & found.keys()
    assert found["train"] + found["train_sft"] == TRAINED * 3  # seeds


def test_a_packages_model_is_made_again_when_another_version_is_named_and_not_otherwise(tmp_path):
    folder = copied(tmp_path / "project")
    wanted = ("--cores", "1", "--quiet", "all", "--config", "study=small", "--", "results/small/models/base/model")
    file = folder / "results/small/models/base/model/file"
    assert snakemake(folder, *wanted).returncode == 0
    first = file.stat().st_mtime_ns
    assert snakemake(folder, *wanted).returncode == 0
    assert file.stat().st_mtime_ns == first
    replace(folder / "config/studies/small.yaml", "revision: 0.1.2", "revision: 0.1.3")
    assert snakemake(folder, *wanted).returncode == 0
    assert file.stat().st_mtime_ns > first
