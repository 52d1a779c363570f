"""What decides each job: nothing that it can reach is left out of its code, and each job is named once."""

import json
import sys
from pathlib import Path

import pytest

from chord.config import Zero, load
from chord.config.beside import beside_training
from chord.config.building import trained_starts
from chord.jobs import expectations, run_texts
from chord.planning.snakemake import asked
from chord.provenance.commands import texts, verb_of
from chord.provenance.digest import DECIDES_NOTHING, deciding_code
from chord.records import Problem, Trace, read_lines, write_lines
from tests import warm
from tests.faults.small_run import command, small_run

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT)
RECIPES = {name: arm.recipe for name, arm in PROJECT.arms.items() if arm.recipe}

# Trains each plan in a forked child in which every function that is left out of the arm's code raises.
TRAIN_WITHOUT = """
import importlib, json, os, sys, types
import chord.train, chord.rollout, chord.learner.luffy_step, chord.learner.sasr_step

def forbidden(beside):
    for item in beside:
        module, _, name = item.partition(":")
        functions = vars(importlib.import_module(module))
        for key in [name] if name else list(functions):
            if isinstance(functions[key], (types.FunctionType, type)) and functions[key].__module__ == module:
                yield functions[key]

def replace_everywhere(function):
    def raises(*args, **kwargs):
        raise AssertionError(f"reached {function.__module__}:{function.__name__}, which the digest leaves out")
    for module in [m for name, m in sys.modules.items() if name.startswith("chord.")]:
        for key, value in list(vars(module).items()):
            if value is function:
                setattr(module, key, raises)

ends = []
for arguments, beside in json.load(open(sys.argv[1])):
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for function in list(forbidden(beside)):
                replace_everywhere(function)
            sys.argv = ["chord.train", *arguments]
            code = chord.train.main() or 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(code)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
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


def trained_without(folder: Path, plans: list[tuple[list[str], tuple[str, ...]]]) -> tuple[list[int], str]:
    (folder / "plans.json").write_text(json.dumps(plans))
    done = warm.run([sys.executable, "-c", TRAIN_WITHOUT, str(folder / "plans.json")], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_every_arm_trains_without_the_code_that_its_digest_leaves_out(tmp_path: Path) -> None:
    ends, said = trained_without(tmp_path, [(plan(tmp_path / "base", "sft-light", None), ())])
    assert ends == [0], said[-3000:]
    start = tmp_path / "base" / "out" / "model"
    left_out = {name: beside_training(recipe, PROJECT.study.execution) for name, recipe in RECIPES.items()}
    one_of_each = {
        beside: name for name, beside in left_out.items()
    }  # arms that differ in numbers alone are trained once
    plans = [(plan(tmp_path / name, name, start), beside) for beside, name in one_of_each.items()]
    ends, said = trained_without(tmp_path, plans)
    assert dict(zip(one_of_each.values(), ends, strict=True)) == dict.fromkeys(one_of_each.values(), 0), said[-3000:]


def test_the_code_around_deepspeed_decides_only_what_is_trained_with_it() -> None:
    recipe, execution = RECIPES["chord-phi"], PROJECT.study.execution
    divided = execution.model_copy(update={"zero": Zero(stage=2)})
    without, within = (deciding_code("chord.train", beside_training(recipe, one)) for one in (execution, divided))
    assert within.keys() - without.keys() == {"chord.learner.preflight", "chord.learner.zero"}
    changed = PROJECT.model_copy(update={"study": PROJECT.study.model_copy(update={"execution": divided})})
    now = expectations(changed, ROOT)
    for name, before in expectations(PROJECT, ROOT).items():
        after = now[name]
        assert (after.without != before.without) is (after.verb == "chord.train"), name


def test_an_arm_that_needs_what_is_left_out_ends_with_its_name(tmp_path: Path) -> None:
    plans = [
        (plan(tmp_path / "a", "chord-phi", None), ("chord.objective.weights:phi",)),
        (plan(tmp_path / "b", "luffy", None), ("chord.objective.luffy",)),
    ]
    ends, said = trained_without(tmp_path, plans)
    assert ends == [99, 99]
    assert "reached chord.objective.weights:phi" in said and "reached chord.objective.luffy:" in said


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_left_out_exists_and_is_a_part_of_the_whole_closure(name: str) -> None:
    everything = deciding_code("chord.train")
    for item in beside_training(RECIPES[name], PROJECT.study.execution):
        module, _, function = item.partition(":")
        assert module in everything, item
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert not function or f"\ndef {function}(" in source, item


def trained_by(sampler: str) -> tuple[dict[str, str], str]:
    """The deciding code of an arm of the demo with this sampler, and what its run.json says of how it is executed."""
    execution = PROJECT.study.execution.model_copy(update={"sampler": sampler})
    project = PROJECT.model_copy(update={"study": PROJECT.study.model_copy(update={"execution": execution})})
    beside = beside_training(RECIPES["chord-phi"], execution)
    return deciding_code("chord.train", beside), project.run("chord-phi", 1).execution.model_dump_json()


def test_a_training_depends_on_the_code_of_its_own_sampler_alone() -> None:
    """And the one of the demo is told nothing of samplers, so that its run.json is that of before there were two."""
    ours, told = trained_by("transformers")
    vllms, told_of_vllm = trained_by("vllm")
    assert 'sampler"' not in told and "vllm" not in told
    assert '"sampler":"vllm"' in told_of_vllm
    assert [name for name in ours if "vllm" in name or "handover" in name or "checksums" in name] == []
    assert "chord.sampling.transformers_sampler" in ours
    assert "chord.sampling.transformers_sampler" not in vllms
    assert {"chord.handover", "chord.sampling.vllm_sampler", "chord.sampling.vllm_worker"} <= vllms.keys()


@pytest.mark.parametrize("study", ["demo", "math"])
def test_for_every_job_there_is_a_rule_that_gives_its_verb_and_its_manifest(study: str) -> None:
    project = load(ROOT, study)
    told, expected = asked(ROOT, [f"study={study}"]), expectations(project, ROOT)
    assert told.keys() == expected.keys() | run_texts(project).keys()
    assert texts(told) == run_texts(project)
    for key, one in expected.items():
        verb, words = verb_of(told[key].shell)
        assert verb == one.verb, key
        assert words[words.index("--manifest") + 1] == f"results/{study}/{key}"


def test_an_arm_that_is_chosen_on_the_first_benchmark_is_decided_by_which_that_is() -> None:
    key = "runs/sft-best-test/seed-1/choose.manifest.json"
    benchmarks = dict(sorted(PROJECT.study.benchmarks.items()))
    assert list(benchmarks) != list(PROJECT.study.benchmarks)
    sorted_study = PROJECT.study.model_copy(update={"benchmarks": benchmarks})
    other = expectations(PROJECT.model_copy(update={"study": sorted_study}), ROOT)
    ours = expectations(PROJECT, ROOT)
    assert (ours[key].decided_by["benchmark"], other[key].decided_by["benchmark"]) == ("in-distribution", "harder")
    assert ours["table1.manifest.json"].decided_by != other["table1.manifest.json"].decided_by
    assert ours["claims.manifest.json"].decided_by != other["claims.manifest.json"].decided_by
    assert ours["report.manifest.json"].decided_by != other["report.manifest.json"].decided_by
    cells = "runs/grpo/seed-1/eval/harder/scores.manifest.json", "runs/sft-best/seed-1/choose.manifest.json"
    assert [ours[one] for one in cells] == [other[one] for one in cells]


def test_every_job_of_the_study_has_one_entry_with_its_own_slice() -> None:
    found = expectations(PROJECT, ROOT)
    seeds, benchmarks = len(PROJECT.seeds), len(PROJECT.study.benchmarks)
    arms = [name for name in PROJECT.trainable if PROJECT.arms[name].recipe]
    trainings = len(arms) * seeds + len(trained_starts(PROJECT.study))
    assert sum(one.verb == "chord.train" for one in found.values()) == trainings
    assert sum(one.verb == "chord.generate" for one in found.values()) == len(PROJECT.trainable) * seeds * benchmarks
    assert len(run_texts(PROJECT)) == trainings
    answers = found["runs/grpo/seed-1/eval/harder/answers.manifest.json"].decided_by
    assert (answers["benchmark"], answers["seed"]) == ("harder", 1)
    assert "cpu_threads" not in json.dumps(answers)
    assert not set(DECIDES_NOTHING) & set(deciding_code("chord.generate"))
