"""What decides each job: nothing that it can reach is left out of its code, and each job is named once."""

import json
import sys
from pathlib import Path

import pytest

from chord.cluster.snakemake import asked
from chord.config.project import Project, Run, load
from chord.config.study import Zero
from chord.provenance.changes import text_of, verb_of
from chord.provenance.digest import At, contents, job_code, package_of
from chord.records import Problem, Trace, read_lines, write_lines
from chord.steps import Dag, of_training
from tests import warm
from tests.faults.small_run import command, small_run

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT)
RECIPES = {name: arm.recipe for name, arm in PROJECT.arms.items() if arm.recipe}

# Trains each plan in a forked child, and prints every function of this package that ran, by its definition.
TRAIN = """
import json, os, sys
import chord.training.train, chord.training.rollouts, chord.training.transformers_sampler
import chord.grading.graders

FOLDER = os.path.dirname(chord.__file__)
ran = set()

def look(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(FOLDER) and not code.co_name.startswith("<"):
        ran.add((os.path.relpath(code.co_filename, FOLDER), code.co_qualname.partition(".")[0]))

for arguments in json.load(open(sys.argv[1])):
    child = os.fork()
    if child == 0:
        sys.argv = ["chord train", *arguments]
        sys.setprofile(look)
        code = chord.training.train.main() or 0
        sys.setprofile(None)
        print(json.dumps([code, sorted(ran)]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def plan(folder: Path, name: str, start: Path | None) -> list[str]:
    """The command line of a few steps of the arm's recipe, from a model that is there."""
    raw = json.loads(RECIPES[name].model_dump_json()) | {"learning_rate": 1e-3}
    raw |= {"steps": 4, "epochs": None} if raw["steps"] else {"epochs": 1.0}
    raw["init"] = "base" if start else "random"
    if raw["mu"]["schedule"] == "gradient-norm":
        raw["mu"]["warmup_steps"] = 2
    small_run(folder, recipe=raw, arm=name, **({"model": None} if start else {}))
    if raw["traces"] == "aligned":
        problems = read_lines(folder / "prompts.jsonl", Problem)
        aligned = [Trace(f"a-{p.id}", p.id, p.prompt, f"={p.answer}", "scripted expert") for p in problems]
        (folder / "traces.jsonl").write_text(write_lines(aligned))
        (folder / "solved.jsonl").write_text(write_lines(problems))
    return [*command(folder, folder / "out"), *(["--start", str(start)] if start else [])]


def functions_of(folder: Path, plans: list[list[str]]) -> list[tuple[int, set[str]]]:
    """For each training its exit code, and the definitions whose functions ran."""
    (folder / "plans.json").write_text(json.dumps(plans))
    done = warm.run([sys.executable, "-c", TRAIN, str(folder / "plans.json")], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(plans), done.stderr[-3000:]
    return [
        (code, {f"chord.{file.removesuffix('.py').replace('/', '.')}.{name}" for file, name in ran})
        for code, ran in found
    ]


# Parts of the package that read config/ or keep records: all they do for a job is marked as deciding nothing.
CODE = package_of(str(ROOT), "chord")
BESIDE = ("chord.config.", "chord.provenance.", "chord.settings.", "chord.reach.")


def test_every_function_that_a_training_runs_is_in_its_digest(tmp_path: Path) -> None:
    """Of each kind of arm one is trained; what differs in numbers alone has the same code."""
    assert [code for code, _ in functions_of(tmp_path, [plan(tmp_path / "base", "sft-light", None)])] == [0]
    start = tmp_path / "base" / "out" / "model"
    runs = {name: PROJECT.run(name, 1) for name in RECIPES}
    one_of_each = {tuple(sorted(of_training(run).uses.items())): name for name, run in runs.items()}
    assert len(one_of_each) > 10
    found = functions_of(tmp_path, [plan(tmp_path / name, name, start) for name in one_of_each.values()])
    for name, (code, ran) in zip(one_of_each.values(), found, strict=True):
        run = Run.read(tmp_path / name / "run.json")  # its values are smaller, and some name other entries
        digest = set(contents(job_code("chord train", of_training(run).uses).definitions))
        assert code == 0, name
        assert len(ran) > 80, name
        lacking = [one for one in ran - digest if not one.startswith(BESIDE)]
        marked = {one for one in lacking if CODE.is_outside(At(*one.rpartition(".")[::2]))}
        assert sorted({*lacking} - marked) == [], name


def project_with(**execution: object) -> Project:
    """The demo, its jobs executed otherwise."""
    changed = PROJECT.study.execution.model_copy(update=execution)
    return PROJECT.model_copy(update={"study": PROJECT.study.model_copy(update={"execution": changed})})


def trained(project: Project) -> set[str]:
    """The modules that decide an arm of the project."""
    return set(job_code("chord train", of_training(project.run("chord-phi", 1)).uses).definitions)


def test_the_code_around_deepspeed_decides_only_what_is_trained_with_it() -> None:
    divided = project_with(zero=Zero(stage=2))
    assert trained(divided) - trained(PROJECT) == {"chord.training.sharded"}
    now = Dag(divided, ROOT).specs
    for name, before in Dag(PROJECT, ROOT).specs.items():
        after = now[name]
        assert (after.uses != before.uses) is (after.verb == "chord train"), name


def test_a_training_depends_on_the_code_of_its_own_sampler_alone() -> None:
    """And the one of the demo is told nothing of samplers, so that its run.json is that of before there were two."""
    ours, vllms = (project_with(sampler=name) for name in ("transformers", "vllm"))
    told, told_of_vllm = (one.run("chord-phi", 1).execution.model_dump_json() for one in (ours, vllms))
    assert 'sampler"' not in told and "vllm" not in told and '"sampler":"vllm"' in told_of_vllm
    theirs = {"chord.training.weight_sync", "chord.sampling.vllm_sampler"}
    assert theirs <= trained(vllms) and not trained(ours) & {*theirs, "chord.sampling.vllm_server"}
    assert "chord.training.transformers_sampler" in trained(ours) - trained(vllms)


def test_a_training_that_only_imitates_depends_on_no_grader_reward_or_advantage() -> None:
    code = job_code("chord train", of_training(PROJECT.run("sft-light", 1)).uses)
    names = set(contents(code.definitions))
    assert "chord.training.rollouts.Feed" in names and "chord.objective.imitation" in names
    assert not {"chord.grading.graders"} & set(code.definitions)
    assert "chord.training.rollouts.Practice" not in names
    assert not {"chord.objective.group_advantages", "chord.objective.policy_gradient"} & names


@pytest.mark.parametrize("study", ["demo", "math"])
def test_for_every_job_there_is_a_rule_that_gives_its_verb_and_its_manifest(study: str) -> None:
    project = load(ROOT, study)
    told, expected = asked(ROOT, [f"study={study}"]), Dag(project, ROOT).specs
    assert told.keys() == expected.keys() | Dag(project).run_texts.keys()
    printed = {key: text for key, one in told.items() if (text := text_of(one)) is not None}
    assert printed == Dag(project).run_texts
    for key, one in expected.items():
        verb, words = verb_of(told[key].shell)
        assert verb == one.verb, key
        assert words[words.index("--manifest") + 1] == f"results/{study}/{key}"


def test_an_arm_that_is_chosen_on_the_first_benchmark_is_decided_by_which_that_is() -> None:
    key = "runs/sft-best-test/seed-1/choose.manifest.json"
    benchmarks = dict(sorted(PROJECT.study.benchmarks.items()))
    assert list(benchmarks) != list(PROJECT.study.benchmarks)
    sorted_study = PROJECT.study.model_copy(update={"benchmarks": benchmarks})
    other = Dag(PROJECT.model_copy(update={"study": sorted_study}), ROOT).specs
    ours = Dag(PROJECT, ROOT).specs
    assert (ours[key].decided_by["benchmark"], other[key].decided_by["benchmark"]) == ("in-distribution", "harder")
    for name in ("table1", "claims", "report"):
        assert ours[f"{name}.manifest.json"].decided_by != other[f"{name}.manifest.json"].decided_by
    cells = "runs/grpo/seed-1/eval/harder/scores.manifest.json", "runs/sft-best/seed-1/choose.manifest.json"
    assert [ours[one] for one in cells] == [other[one] for one in cells]
