"""Every recipe of config/arms.yaml trains, and does what its row says: mu, branches, weights, LUFFY and SASR."""

import json
import sys
from collections import Counter
from dataclasses import replace

import pytest

from chord.config.project import load
from chord.config.study import Validation
from chord.objective import MuDecay, Step
from chord.records import Problem, Trace, ValidationAnswer, read_lines, write_lines
from tests import warm
from tests.faults.small_run import command, small_run
from tests.projects import ROOT

pytestmark = pytest.mark.numbers

EVERY = {name: arm.recipe for name, arm in load(ROOT).arms.items() if arm.recipe}
ALIKE = {recipe.model_copy(update={"learning_rate": 1e-3}): name for name, recipe in reversed(EVERY.items())}
RECIPES = {
    name: recipe for name, recipe in EVERY.items() if name in ALIKE.values()
}  # of those with other rates the first
STEPS = 12
TRAIN_ALL = """
import json, sys
from tests.faults.incarnations import incarnation
print(json.dumps([incarnation(arguments, None) for arguments in json.load(open(sys.argv[1]))]))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder a recipe, each trained from a blank model for a few steps; imports are paid once."""
    folder = tmp_path_factory.mktemp("arms")
    plans = []
    for name, recipe in RECIPES.items():
        raw = json.loads(recipe.model_dump_json()) | {"init": "random", "learning_rate": 1e-3}
        raw |= {"steps": STEPS, "epochs": None} if recipe.steps else {"epochs": 3.0}
        if raw["mu"]["schedule"] == "decay":
            raw["mu"] |= {"decay_steps": 5, "warmup_steps": min(2, raw["mu"]["warmup_steps"])}
        if raw["mu"]["schedule"] == "gradient-norm":
            raw["mu"]["warmup_steps"] = 3
        small_run(folder / name, recipe=raw, arm=name)
        problems = read_lines(folder / name / "prompts.jsonl", Problem)
        if recipe.traces == "aligned":
            aligned = [Trace(f"a-{p.id}", p.id, p.prompt, f"={p.answer}", "scripted expert") for p in problems]
            (folder / name / "traces.jsonl").write_text(write_lines(aligned))
            (folder / name / "solved.jsonl").write_text(write_lines(problems))
        plans.append(command(folder / name, folder / name / "out"))
    (folder / "plans.json").write_text(json.dumps(plans))
    done = warm.run([sys.executable, "-c", TRAIN_ALL, str(folder / "plans.json")], cwd=ROOT)
    assert done.returncode == 0 and set(json.loads(done.stdout)) == {"0"}, done.stderr[-3000:]
    return {name: folder / name / "out" for name in RECIPES}


@pytest.fixture(scope="module")
def metrics(runs):
    """The metrics of each arm without those of step 0."""
    lines = {name: (out / "metrics.jsonl").read_text().splitlines() for name, out in runs.items()}
    return {name: [json.loads(line) for line in found][1:] for name, found in lines.items()}


def test_every_arm_takes_all_its_steps_with_finite_losses_and_the_branches_that_mu_says(metrics):
    for name, found in metrics.items():
        assert len(found) == (STEPS if RECIPES[name].steps else 10), name  # 3 epochs of 20 traces, 6 a step
        assert all(abs(line["loss"]) < 100 and line["grad_norm"] < 1000 for line in found), name
        for line in found if name != "luffy" else []:
            assert (line["expert_tokens"] > 0) == (line["mu"] > 0), name
            always_samples = name.startswith("adaptive")  # its mu is known only from the step's own rewards
            assert (line["rollout_tokens"] > 0) == (line["mu"] < 1 or always_samples), name


def test_schedules_follow_their_rows(metrics):
    assert {line["mu"] for line in metrics["chord-phi"]} == {0.1}
    assert {line["mu"] for line in metrics["grpo"]} == {0.0}
    assert {line["mu"] for line in metrics["sft-light"]} == {1.0}
    decay = MuDecay(schedule="decay", decay_steps=5, peak=0.9, valley=0.05)
    assert [line["mu"] for line in metrics["chord-mu"]] == [decay.mu(Step(step, 1, {})) for step in range(STEPS)]
    assert metrics["tune-both"][0]["mu"] == 0
    for line in metrics["adaptive-mu-0.5"]:
        assert line["mu"] == min(1.0, max(0.0, 0.5 - line["reward"]))


def test_validations_that_count_have_more_samples_of_each_problem(tmp_path):
    recipe = json.loads(RECIPES["sft-light"].model_dump_json()) | {"init": "random", "steps": 5, "epochs": None}
    thorough = {"steps": [1], "samples_per_problem": 3}
    schedule = {"every_steps": 2, "problems": 4, "samples_per_problem": 1, "thorough": thorough}
    small_run(tmp_path, recipe=recipe, validation=schedule)
    assert train(tmp_path).returncode == 0
    answers = read_lines(tmp_path / "out/validation.jsonl", ValidationAnswer)
    asked = Counter(answer.step for answer in answers)
    assert asked == {0: 4 * 3, 1: 4 * 3, 2: 4, 4: 4, 5: 4 * 3}
    planned = Validation.model_validate_json(json.dumps(schedule)).planned(5)
    assert {step: 4 * samples for step, samples in planned.items()} == asked


def test_weights_are_those_of_their_rows(metrics):
    first = {name: metrics[name][0]["phi_mean"] for name in metrics}
    assert first["mu-0.1"] == 1
    assert 0 < first["chord-phi"] <= 0.25
    assert 0 < first["chord-phi"] < first["chord-is"] < 1
    assert first["is-clip"] == pytest.approx(first["chord-is"])  # a blank model gives no token more than 0.4
    tokens = metrics["entropy-top"][0]["expert_tokens"]
    assert first["entropy-top"] * tokens == pytest.approx(-(-tokens * 5 // 100))
    assert 0.9 < first["entropy-norm"] <= 1  # a blank model is close to uniform
    assert 0.7 < first["focal"] < 1


def test_luffys_groups_hold_one_expert_trace_for_each_prompt(metrics):
    assert {sum(line["outcomes"].values()) for line in metrics["grpo"]} == {4 * 4}  # prompts, rollouts of each
    for line in metrics["luffy"]:
        assert sum(line["outcomes"].values()) == 4 * 3  # the trace is the fourth of its group
        assert line["mu"] == 0 and line["rollout_tokens"] > 0
        assert line["expert_tokens"] >= 4 * 3  # four prompts, each with a trace of "=", a digit and the end


def test_sasr_imitates_in_its_warm_up_and_then_takes_one_branch_at_a_time(metrics):
    chosen = [line["mu"] for line in metrics["sasr"]]
    assert chosen[:3] == [1, 1, 1]
    assert set(chosen[3:]) == {0, 1}  # with this seed both occur


def test_only_arms_with_rollouts_grade_their_validation_and_the_others_write_their_answers_down(runs, metrics):
    for name, found in metrics.items():
        validated = [line["step"] for line in found if line["validation"]]
        assert validated == ([7, 12] if RECIPES[name].steps else [7, 10]), name
        keys = {"accuracy", "response_tokens", "outcomes"} if RECIPES[name].needs_rollouts else {"response_tokens"}
        assert set(found[6]["validation"]) == keys, name
        assert (runs[name] / "validation.jsonl").exists() != RECIPES[name].needs_rollouts, name
    answers = read_lines(runs["sft-lr-low"] / "validation.jsonl", ValidationAnswer)
    assert [answer.step for answer in answers] == [0] * 14 + [7] * 14 + [10] * 14
    assert len({answer.problem for answer in answers}) == 14
    at_seven = [answer.response_tokens for answer in answers if answer.step == 7]
    assert metrics["sft-lr-low"][6]["validation"]["response_tokens"] == sum(at_seven) / 14


def test_the_weights_of_every_validated_step_are_kept_as_a_model_of_transformers(runs):
    out = runs["sft-lr-low"]
    kept = {path.name: path.read_bytes() for path in (out / "candidates").iterdir()}
    assert kept.keys() == {"step-000007.safetensors", "step-000010.safetensors"}
    assert kept["step-000010.safetensors"] == (out / "model" / "model.safetensors").read_bytes()
    assert len(set(kept.values())) == 2
    assert not (runs["sft-light"] / "candidates").exists()


def train(folder, words=None):
    return warm.run([sys.executable, "-m", "chord", "train", *(words or command(folder, folder / "out"))], cwd=ROOT)


IMITATE = {"init": "random", "mu": {"schedule": "constant", "value": 1.0}, "steps": 2, "learning_rate": 1e-3}
NO_GRADER = """
import sys, chord.training.train
sys.argv[0] = "chord train"
assert chord.training.train.main() == 0
print(sorted(name for name in sys.modules if name.startswith("chord.")))
"""


def put_wrong_traces(folder):
    """The second and the third trace are wrong; gives the second."""
    traces = read_lines(folder / "traces.jsonl", Trace)
    wrong = [traces[0], replace(traces[1], response="=99"), replace(traces[2], response="no mark"), *traces[3:]]
    (folder / "traces.jsonl").write_text(write_lines(wrong))
    return traces[1]


def test_training_that_only_imitates_takes_any_trace_and_imports_no_grader_and_no_reward(tmp_path):
    small_run(tmp_path, recipe=IMITATE | {"keep": "last"}, arm="sft")
    put_wrong_traces(tmp_path)
    done = warm.run([sys.executable, "-c", NO_GRADER, *command(tmp_path, tmp_path / "out")], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "chord.training.rollouts" in done.stdout
    unwanted = ("grading.graders", "grading.math_checker", "grading.tool_calls")
    assert not [name for name in unwanted if f"'chord.{name}'" in done.stdout]


def test_expert_traces_that_the_reward_calls_wrong_or_that_have_no_problem_are_refused_where_both_teach(tmp_path):
    small_run(tmp_path)
    wrong = put_wrong_traces(tmp_path)
    told = train(tmp_path)
    (tmp_path / "solved.jsonl").write_text((tmp_path / "prompts.jsonl").read_text())
    foreign = train(tmp_path)
    assert told.returncode == foreign.returncode == 2 and "Traceback" not in told.stderr + foreign.stderr
    assert "traces.jsonl: found 2 of 20 expert traces" in told.stderr
    assert f"'{wrong.id}' first: wrong, expected right" in told.stderr
    assert "found 20 of 20 expert traces" in foreign.stderr and "no problem of its own" in foreign.stderr


LUFFY = json.loads(RECIPES["luffy"].model_dump_json()) | {"init": "random", "steps": 2}
REFUSED = {
    "--candidates: found a path, expected none: arm 'chord-phi' samples rollouts": ({}, ["--candidates", "x"]),
    "--candidates: found nothing, expected a path to write to": ({"recipe": IMITATE | {"keep": "every"}}, []),
    "prompt-aligned": ({"recipe": LUFFY, "arm": "luffy"}, []),
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_recipe_whose_outputs_or_traces_do_not_fit_it_is_refused_in_one_line(tmp_path, said):
    changes, more = REFUSED[said]
    small_run(tmp_path, **changes)
    words = command(tmp_path, tmp_path / "out")
    if "--candidates" in words:
        place = words.index("--candidates")
        del words[place : place + 2]
    done = train(tmp_path, [*words, *more])
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out/model").exists()
