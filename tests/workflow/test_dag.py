"""The graph: what is made, from what, and by which commands. Verbs are stubs; Snakemake, rules, config are real.

What an edit makes again is in test_edits.py.
"""

import json
import re
from pathlib import Path

from tests.workflow.expected import CLAIMS, FIGURES, NUMBERS, TABLE, scored
from tests.workflow.tree import planned, snakemake


def words(built: Path, manifest: str) -> list[str]:
    """The command line of a job, out of the manifest that it left."""
    return json.loads((built / "results/demo" / manifest).read_text())["command"]


def test_the_whole_demo_is_built_and_then_nothing_is_left_to_do(built: Path) -> None:
    assert {path.name for path in (built / "results" / "demo").iterdir()} >= NUMBERS
    assert planned(built) == set()
    again = snakemake(built, "--cores", "1")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_a_deleted_score_is_made_again_with_the_table_and_the_page(tree: Path) -> None:
    (tree / "results/demo/runs/chord-phi/seed-1/eval/harder/scores.json").unlink()
    assert planned(tree) == scored({"chord-phi"}, "harder") | NUMBERS
    done = snakemake(tree, "--cores", "1")
    assert done.returncode == 0, done.stdout
    first, *both, page, end = re.findall(r"Job \d+: (.*)", done.stdout)
    assert first == "Scoring harder of chord-phi, seed 1"
    assert sorted(both) == ["Judging what the paper claims", "Tabulating table1"]
    assert (page, end) == ("Writing the page of study demo", "All that config/config.yaml names is in results/")


def test_values_given_on_the_command_line_hold_for_that_command(tree: Path) -> None:
    plan = planned(tree, "table1", "--config", "seeds=[7]")
    assert {file.split("/")[2] for file in plan if file.startswith("runs/")} == {"seed-7"}
    assert {file for file in plan if not file.startswith("runs/")} == TABLE


def test_every_artefact_is_a_target_and_so_are_the_verdicts(tree: Path) -> None:
    told = snakemake(tree, "--list-target-rules")
    names = {path.stem for path in (tree / "config" / "experiments").glob("*.yaml")}
    assert names | {"claims"} <= set(told.stdout.split())
    (tree / "results/demo/claims.json").unlink()
    assert planned(tree, "claims") == CLAIMS
    assert planned(tree, "table1") == set()


def test_the_first_job_of_a_model_is_told_of_the_other_benchmarks(built: Path) -> None:
    told = words(built, "runs/grpo/seed-1/eval/harder/answers.manifest.json")
    run, data = "results/demo/runs/grpo/seed-1/eval", "results/demo/data/benchmarks"
    assert [word for word in told if word.endswith("answers.jsonl")] == [
        f"{run}/harder/answers.jsonl",
        f"in-distribution={data}/in-distribution.jsonl={run}/in-distribution/answers.jsonl",
        f"other-skill={data}/other-skill.jsonl={run}/other-skill/answers.jsonl",
    ]
    told = words(built, "runs/grpo/seed-1/eval/harder/scores.manifest.json")
    other = f"{run}/other-skill"
    assert f"other-skill={other}/answers.jsonl={data}/other-skill.jsonl={other}/scores.json" in told


def test_training_reads_only_what_its_recipe_can_touch(built: Path) -> None:
    data, runs = "results/demo/data", "results/demo/runs"
    folders = {arm: f"runs/{arm}/seed-1" for arm in ("grpo", "sft-light", "sft-best+rl")} | {"base": "models/base"}
    commands = {name: words(built, f"{folder}/train.manifest.json") for name, folder in folders.items()}
    read = {name: dict(zip(found, found[1:], strict=False)) for name, found in commands.items()}
    assert "--traces" not in read["grpo"]
    assert read["grpo"]["--prompts"] == f"{data}/problems/train.jsonl"
    assert read["grpo"]["--start"] == "results/demo/models/base/model"
    assert "--prompts" not in read["sft-light"]
    assert read["sft-light"]["--traces"] == f"{data}/traces/expert.jsonl"
    assert read["sft-best+rl"]["--start"] == f"{runs}/sft-best/seed-1/model"
    assert read["base"]["--traces"] == f"{data}/traces/base.jsonl"
    assert not {"--start", "--prompts"} & read["base"].keys()


def test_the_report_is_one_file_with_every_table_and_figure(built: Path, tmp_path: Path) -> None:
    told = snakemake(built, "--cores", "1", "--report", str(tmp_path / "snakemake-report.html"))
    assert told.returncode == 0, told.stdout
    page = (tmp_path / "snakemake-report.html").read_text(encoding="utf-8")
    added = re.findall(r"Adding (\S+) ", told.stdout)
    assert {Path(file).name for file in added} == {
        "report.html",
        "table1.html",
        "claims.html",
        "claims.svg",
        *(f"{name}.svg" for name in FIGURES),
    }
    assert "Shift, readapt" in page
    assert not re.findall(r"""(?:src|href)=["']https?://[^"']*\.(?:js|css)""", page)
