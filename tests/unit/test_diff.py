"""`chord diff` names the first cause of a difference: code, environment, config, data, seed, step; then the rest."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chord.audit import diff
from chord.audit.diff import first_difference
from chord.errors import UserError
from tests.faults.tampers import CELL, GRPO, SFT, edit_json
from tests.projects import printed


def differences(one: Path, other: Path) -> tuple[int, list[dict[str, str]]]:
    code, told = printed(diff.main, one, other, "--json")
    return code, json.loads(told)


def edited(run: Path, change: Any) -> Path:
    """The manifest of a run after a change, as if another machine or day had written it."""
    edit_json(run / "train.manifest.json", change)
    return run


def test_a_run_differs_in_nothing_from_itself_and_from_a_copy(mini_study: Path, mini_copy: Path) -> None:
    run = Path("results/demo") / GRPO
    assert differences(mini_study / run, mini_study / run) == (0, [])
    assert differences(mini_study / run, mini_copy / run) == (0, [])
    assert "They differ in nothing" in printed(diff.main, mini_study / run, mini_copy / run)[1]


def test_two_seeds_differ_first_in_the_seed_then_in_the_first_step(mini_study: Path) -> None:
    runs = [mini_study / f"results/demo/runs/grpo/seed-{seed}" for seed in (1, 2)]
    code, found = differences(*runs)
    assert code == 1
    assert found[0] == {"what": "seed", "where": "run", "old": "1", "new": "2"}
    metrics = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    first = next(one["step"] for one, other in zip(*metrics, strict=True) if one != other)
    step = [one for one in found if one["what"] == "step"]
    assert step
    assert all(one["where"].startswith(f"step {first}.") for one in step)
    weights = [one["where"] for one in found if one["what"] == "output"]
    assert weights[:2] == ["model", f"model, {first_difference(runs[0] / 'model', runs[1] / 'model')[0]}"]  # type: ignore[index]
    lines = printed(diff.main, *runs)[1].splitlines()
    assert lines[1] == "first: seed run: 1 -> 2" and "step:" in lines


def change_definition(manifest: dict[str, Any], name: str) -> None:
    """As if another content of this definition had run."""
    code, (module, _, last) = manifest["code"], name.rpartition(".")
    words = code["definitions"][module].split()
    words[words.index(last) + 1] = "0" * 8
    code["definitions"][module] = " ".join(words)
    code["digest"] = "0" * 64


def test_two_arms_of_one_checkout_differ_first_in_the_recipe_key_by_key_and_not_in_code(mini_study: Path) -> None:
    results = mini_study / "results/demo"
    manifests = [json.loads((results / run / "train.manifest.json").read_text()) for run in (GRPO, SFT)]
    assert manifests[0]["code"]["definitions"] != manifests[1]["code"]["definitions"], "they reach different ones"
    _, found = differences(results / GRPO, results / SFT)
    told = {(one["what"], one["where"]): (one["old"], one["new"]) for one in found}
    first = {("config", "arm"): ("grpo", "sft-light"), ("config", "recipe.mu.value"): ("0.0", "1.0")}
    assert dict(list(told.items())[:2]) == first
    assert told["data", "prompts"][1] == "nothing"
    assert "code" not in {what for what, _ in told}


@pytest.mark.parametrize("name", ["chord.training.gradient.accumulate_gradient", "chord.objective.harmonise"])
def test_a_real_difference_of_code_between_two_arms_comes_first(mini_study: Path, mini_copy: Path, name: str) -> None:
    other = edited(mini_copy / "results/demo" / SFT, lambda m: change_definition(m, name))
    _, found = differences(mini_study / "results/demo" / GRPO, other)
    assert found[0]["where"] == name
    assert found[0]["new"] == "00000000"


@pytest.mark.parametrize(
    ("first", "where", "change"),
    [
        ("code", "chord.training.train.main", lambda m: change_definition(m, "chord.training.train.main")),
        ("environment", "packages.torch", lambda m: m["installed"]["packages"].update(torch="1.0")),
        ("environment", "python", lambda m: m["installed"].update(python="3.0")),
        ("environment", "variables.RANK", lambda m: m["environment"].update(RANK="1")),
        ("environment", "machine.cpu", lambda m: m["machine"].update(cpu="another")),
        ("config", "phi", lambda m: m["decided_by"].update(phi="p")),
        ("data", "prompts", lambda m: m["inputs"]["prompts"].update(sha256="0" * 64)),
        ("seed", "run", lambda m: m["seeds"].update(run=7)),
        ("output", "model", lambda m: m["outputs"]["model"].update(sha256="0" * 64)),
    ],
)
def test_each_cause_is_named_before_what_follows_from_it(
    mini_study: Path, mini_copy: Path, first: str, where: str, change: Any
) -> None:
    run = Path("results/demo") / GRPO

    def both(manifest: dict[str, Any]) -> None:
        change(manifest)
        manifest["outputs"]["model"]["sha256"] = "1" * 64

    code, found = differences(mini_study / run, edited(mini_copy / run, both))
    assert code == 1
    assert (found[0]["what"], found[0]["where"]) == (first, where)
    assert found[-1]["where"].startswith("model")


def test_the_first_record_of_other_data_is_named(mini_study: Path, mini_copy: Path) -> None:
    problems = mini_copy / "results/demo/data/problems/train.jsonl"
    lines = problems.read_text().splitlines(keepends=True)
    lines[3] = json.dumps(json.loads(lines[3]) | {"answer": "0"}) + "\n"
    problems.write_text("".join(lines))
    run = Path("results/demo") / GRPO
    other = edited(mini_copy / run, lambda m: m["inputs"]["prompts"].update(sha256="0" * 64))
    _, found = differences(mini_study / run, other)
    assert [one["where"] for one in found] == ["prompts", "prompts, line 4.answer"]


def test_a_record_with_any_line_break_in_its_text_is_one_line(mini_study: Path, mini_copy: Path) -> None:
    manifests = []
    for name, answer in (("one", "1"), ("other", "2")):
        folder = mini_copy.parent / name / "results/demo/data"
        shutil.copytree(mini_study / "results/demo/data", folder)
        problems = folder / "problems/train.jsonl"
        lines = [json.loads(line) for line in problems.read_text().split("\n")[:-1]]
        lines[0]["prompt"] = "a\x85b\u2028c\u2029d\x0be\x1ef\rg"
        lines[1]["answer"] = answer
        problems.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        manifests.append(problems.with_suffix(".manifest.json"))
        edit_json(manifests[-1], lambda m, a=answer: m["outputs"]["problems"].update(sha256=a * 64))
    _, found = differences(*manifests)
    assert [one["where"] for one in found] == ["problems", "problems, line 2.answer"]


def test_answers_of_two_models_differ_first_in_the_model(mini_study: Path) -> None:
    manifests = [mini_study / f"results/demo/{CELL}/answers.manifest.json"]
    manifests.append(Path(str(manifests[0]).replace("grpo", "sft-light")))
    _, found = differences(*manifests)
    assert found[0]["where"] == "model"
    assert found[-1]["where"].startswith("answers, line ")


def test_a_folder_without_one_manifest_is_misuse(mini_study: Path) -> None:
    run = mini_study / "results/demo" / GRPO
    for place, found in (
        (run / "eval", "no manifest"),
        (mini_study / f"results/demo/{CELL}", "answers.manifest.json, sc"),
    ):
        with pytest.raises(UserError, match=f"found {found}"):
            diff.main([str(place), str(run)])
