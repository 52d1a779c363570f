"""`chord audit` answers what it is asked: a number, a file, a folder, a study; in words, as JSON, by its exit code."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from chord.audit import audit, inquiry
from chord.config.project import load
from chord.errors import UserError
from chord.provenance import ledger, lineage
from tests.faults.tampers import CELL, GRPO, SCORES, edit_json, flip_in_place, remade
from tests.projects import git, printed, run

pytestmark = pytest.mark.usefixtures("rules_read_once")


def told(*arguments: object) -> tuple[int, str]:
    return printed(audit.main, *arguments)


def as_json(*arguments: object) -> dict[str, Any]:
    return json.loads(told(*arguments, "--json")[1])


def paths(found: dict[str, Any]) -> set[str]:
    return {link["path"].removeprefix("results/demo/") for link in found["links"]}


# --- one number --------------------------------------------------------------------------------


def test_a_cell_is_followed_to_its_seeds_data_and_recipes_no_further_and_each_link_tells_how_it_was_made(
    mini_study: Path,
) -> None:
    found = as_json(mini_study / "results/demo/table1.json", "--cell", "grpo/in-distribution")
    own = [f"runs/grpo/seed-{seed}" for seed in (1, 2)]
    assert paths(found) >= {
        *(f"{run}/{file}" for run in own for file in ("model", "run.json", "eval/in-distribution/scores.json")),
        *("models/base/model", "models/base/run.json", "data/problems/train.jsonl", "data/traces/base.jsonl"),
        *("data/benchmarks/in-distribution.jsonl", "data/problems/base.jsonl", "table1.md", "table1.html"),
    }
    assert not any("other-skill" in path or "sft-light" in path for path in paths(found))
    assert found["holds"]
    jobs = [link["made_by"] for link in found["links"] if link["made_by"]]
    assert {job["verb"] for job in jobs} >= {f"chord {verb}" for verb in ("prepare", "train", "generate", "score")}
    assert {job["git"]["commit"] for job in jobs} == {git(mini_study, "rev-parse", "HEAD").strip()}
    assert all(len(job["code"]) == 64 and job["python"] and job["device"] for job in jobs)
    assert {job["seeds"].get("run") for job in jobs if job["verb"] == "chord train"} >= {1, 2}


def test_a_cell_is_shown_as_it_stands_and_as_its_scores_give_it(mini_copy: Path) -> None:
    table = mini_copy / "results/demo/table1.json"
    cell = json.loads(table.read_text())["rows"][2]["cells"]["in-distribution"]
    code, text = told(table, "--cell", "grpo/in-distribution")
    assert code == 0
    assert text.count(f"{cell['mean']:.1f} ± {cell['se']:.1f} percent, n = 2 × 8 × 4") == 2
    edit_json(table, lambda data: data["rows"][2]["cells"]["in-distribution"].update(mean=88.8))
    code, text = told(table, "--cell", "grpo/in-distribution")
    assert code == 1
    assert "stands there:    88.8 ±" in text
    assert f"its scores give: {cell['mean']:.1f} ±" in text


def test_a_broken_link_behind_another_number_does_not_break_this_one(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    flip_in_place(results / GRPO / "model/model.safetensors")
    assert told(results / "table1.json", "--cell", "sft-light/in-distribution")[0] == 0
    assert told(results / "table1.json", "--cell", "grpo/other-skill")[0] == 1
    assert told(results / "table1.json")[0] == 1


def test_the_tree_goes_from_the_number_down_and_tells_shared_parts_once(mini_study: Path) -> None:
    _, text = told(mini_study / "results/demo/table1.json", "--cell", "grpo/in-distribution")
    lines = text.splitlines()
    names = ["results/demo/table1.json", f"results/demo/{SCORES}", f"results/demo/{CELL}/answers.jsonl"]
    names += [f"results/demo/{GRPO}/model", f"results/demo/{GRPO}/run.json"]
    places = [next(number for number, line in enumerate(lines) if line.endswith(name)) for name in names[1:]]
    assert places == sorted(places)
    base = [line for line in lines if line.endswith("results/demo/models/base/model")]
    assert [line.split()[0] for line in base] == ["verified", "above"]
    assert max(map(len, lines)) < 200


# --- other questions ---------------------------------------------------------------------------


def test_without_a_target_the_study_of_the_configuration_is_audited(
    mini_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mini_study)
    code, text = told()
    assert code == 0
    assert text.startswith("results/demo, every link of it:")
    assert "links hold." in text.splitlines()[-2]


def test_a_model_a_manifest_a_folder_and_raw_settings_can_be_asked_about(mini_study: Path) -> None:
    results = mini_study / "results/demo"
    for target in (f"{GRPO}/model", f"{GRPO}/train.manifest.json", GRPO, f"{GRPO}/run.json", "figure9.svg"):
        found = as_json(results / target)
        assert found["holds"], target
    assert "runs/grpo/seed-1/eval/other-skill/scores.json" in paths(as_json(results / GRPO))
    assert paths(as_json(results / f"{GRPO}/run.json")) == {f"{GRPO}/run.json"}


def test_misuse_is_told_with_what_was_found_and_expected(mini_study: Path, tmp_path: Path) -> None:
    results = mini_study / "results/demo"
    table, no_cell = results / "table1.json", "is no arm and benchmark of the table, expected"
    for arguments, message in (
        ([tmp_path], "found no folder results/STUDY above it"),
        ([mini_study / "results/none"], "found no such folder, expected the results of a study"),
        ([results / "nothing.json"], "found nothing there, expected a result; build it"),
        ([results / "logs"], "found nothing that a manifest describes"),
        ([results / "figure9.json", "--cell", "grpo/harder"], "found no manifest of a table"),
        ([table, "--cell", "grpo/harder"], f"'grpo/harder' {no_cell} one of: grpo/in-distribution, grpo/other"),
        ([table, "--cell", "gpro/in-distribution"], "expected `grpo/in-distribution` (nearest) or one of: "),
        ([table, "--cell", "grpo/in-distribution/hard"], f"hard' {no_cell} `grpo/in-distribution` ("),
        ([results / "tabel1.json"], f"did you mean {table}?"),
        ([results / "tabel1.json", "--cell", "grpo/harder"], f"did you mean {table}?"),
        ([mini_study / "results/dmeo"], f"did you mean {results}?"),
        ([results / "runs/gpro/seed-1/model"], f"did you mean {results / 'runs/grpo/seed-1/model'}?"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            audit.main(list(map(str, arguments)))


def test_exit_codes_are_those_of_the_help(mini_copy: Path) -> None:
    results = "results/demo"
    assert run(mini_copy, "chord audit", results).returncode == 0
    (mini_copy / results / SCORES).unlink()
    broken = run(mini_copy, "chord audit", results)
    assert broken.returncode == 1
    assert f"MISSING  results/demo/{SCORES}" in broken.stdout
    assert f"do: snakemake --cores 2 results/demo/{SCORES}" in broken.stdout
    misused = run(mini_copy, "chord audit", "elsewhere")
    assert (misused.returncode, misused.stdout.count("\n")) == (2, 1)


# --- remarks -----------------------------------------------------------------------------------


STATE = {"commit": "c" * 40, "dirty": False, "diff_sha256": None, "untracked": 0, "why": None}


def test_a_dirty_tree_is_a_remark_and_breaks_the_chain_only_where_one_is_strict(
    mini_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chord.provenance.environment.git_state", lambda root: STATE | {"dirty": True})
    remade("table1.json", lambda table: None)(mini_copy / "results/demo")
    found = as_json(mini_copy / "results/demo/table1.json")
    assert [(one["status"], one["path"]) for one in found["findings"]] == [("dirty tree", "results/demo/table1.json")]
    assert told(mini_copy / "results/demo/table1.json")[0] == 0
    code, text = told(mini_copy / "results/demo/table1.json", "--strict")
    assert code == 1
    assert "made from commit cccccccccccc with uncommitted changes" in text


def test_a_package_other_than_pinned_is_a_remark(mini_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = json.loads((mini_copy / "results/demo/table1.manifest.json").read_text())["installed"]["packages"]
    monkeypatch.setattr("chord.provenance.environment.key_packages", lambda: real | {"numpy": "0.0.1"})
    monkeypatch.setattr("chord.provenance.environment.git_state", lambda root: STATE)
    remade("table1.json", lambda table: None)(mini_copy / "results/demo")
    found = as_json(mini_copy / "results/demo/table1.json")
    assert [one["status"] for one in found["findings"]] == ["unpinned"]
    assert "numpy 0.0.1 (pinned " in found["findings"][0]["found"]


def test_results_without_their_configuration_are_hashed_and_said_not_to_be_judged(mini_copy: Path) -> None:
    shutil.rmtree(mini_copy / "config")
    code, text = told(mini_copy / "results/demo")
    assert code == 0
    assert "not judged: whether anything is stale" in text
    assert told(mini_copy / "results/demo", "--strict")[0] == 1
    edit_json(mini_copy / "results/demo" / SCORES, lambda scores: scores.update(mean=0.9))
    assert told(mini_copy / "results/demo")[0] == 1


# --- numbers made again ------------------------------------------------------------------------


def test_tables_figures_and_scores_follow_from_what_they_were_made_of(mini_study: Path) -> None:
    results, project = mini_study / "results/demo", load(mini_study, "demo")
    assert inquiry.table_differences(results / "table1.json", results) == []
    assert inquiry.claims_differences(results / "claims.json", results, project) == []
    assert inquiry.figure_differences(results / "figure9.json", results, project) == []
    assert inquiry.score_differences(results / SCORES) == []


def test_a_number_that_does_not_follow_is_told_beside_the_one_that_does(mini_copy: Path) -> None:
    results, project = mini_copy / "results/demo", load(mini_copy, "demo")
    edit_json(results / "table1.json", lambda data: data["rows"][0]["cells"]["other-skill"].update(n_problems=9))
    found = inquiry.table_differences(results / "table1.json", results)
    assert [(one.where, one.old, one.new) for one in found] == [("original/other-skill.n_problems", "9", "8")]
    assert inquiry.told(found) == "original/other-skill.n_problems is 9, its inputs give 8"
    assert inquiry.table_differences(results / "table1.json", results, ("grpo", "other-skill")) == []
    edit_json(results / "claims.json", lambda data: data["claims"][2].update(verdict="holds"))
    (found,) = inquiry.claims_differences(results / "claims.json", results, project)
    assert (found.where, found.old) == ("grpo-above-original.verdict", "holds")


def test_quick_believes_what_it_kept_and_nothing_else_does(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    time.sleep(lineage.SETTLED_NS / 1e9 + 0.1)  # of files that are younger nothing is kept
    whole = as_json(results)["bytes_hashed"]
    assert as_json(results, "--quick")["bytes_hashed"] == whole > 0
    assert as_json(results, "--quick")["bytes_hashed"] == 0
    assert as_json(results)["bytes_hashed"] == whole
    flip_in_place(results / GRPO / "model/model.safetensors")
    assert not as_json(results, "--quick")["holds"]


def remarks(results: Path) -> dict[str, str]:
    """What is said of files that no job made, by their places; everything else must hold."""
    found = as_json(results)
    assert found["holds"], found["findings"]
    return {one["path"]: one["found"] for one in found["findings"] if one["status"] == "of no job"}


def test_made_up_files_are_remarked_and_one_with_the_name_of_an_artefact_as_such(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    assert remarks(results) == {}
    made_up = "found a file that no finished job made, expected none"
    cases = {
        "table2.md": made_up,
        "table1.txt": f"{made_up}; it has the name of table1, which this study builds",
        "claims.csv": f"{made_up}; it has the name of the claims that this study builds",
        "snakemake-report.html": f"{made_up}; Snakemake writes its own page under this name, and nothing records what"
        " it wrote",
        "runs/grpo/seed-1/eval/in-distribution/scores-better.json": made_up,
        "runs/chord/seed-1/metrics.jsonl": made_up,
    }
    for name in cases:
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("99.9")
    assert remarks(results) == {f"results/demo/{name}": found for name, found in cases.items()}
    code, text = told(results)
    assert code == 0 and "of no job  results/demo/table1.txt" in text and f"remarks: {len(cases)}." in text
    assert told(results / "table1.json")[1].count("of no job") == 0
    assert told(results, "--strict")[0] == 1


@pytest.mark.parametrize("text", ["no end of line", "\n", '{"event": "end"}\n[]\n'], ids=repr)
def test_text_after_the_last_attempt_of_the_ledger_is_remarked(mini_copy: Path, text: str) -> None:
    path = mini_copy / "results/demo/provenance/ledger.jsonl"
    lines = path.read_text().count("\n")
    with path.open("a") as file:
        file.write(text)
    found = remarks(mini_copy / "results/demo")
    assert list(found) == ["results/demo/provenance/ledger.jsonl"]
    assert found["results/demo/provenance/ledger.jsonl"].startswith(f"found no attempt in line {lines + 1}")


def test_a_line_that_fits_the_chain_and_tells_of_no_attempt_is_remarked(mini_copy: Path) -> None:
    path = mini_copy / "results/demo/provenance/ledger.jsonl"
    number = path.read_text().count("\n")
    ledger.append(path, "note", {"text": "all is well"})
    ledger.append(path, "end", {"attempt": "nobody", "outcome": "ok"})
    found = remarks(mini_copy / "results/demo")
    assert f"in line {number + 1}, {number + 2}: " in found["results/demo/provenance/ledger.jsonl"]
