"""The graph: what is made, and what is made again after an edit. Verbs are stubs; Snakemake, rules, config are real."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from chord.config import Run, load
from chord.provenance.hashing import tree_hash
from tests.workflow.tree import ROOT, copied, planned, replace, snakemake

BENCHMARKS = ("in-distribution", "harder", "other-skill")
TABLE = {"table1.json", "table1.md", "table1.html"}
PAGE = {"overview.html"}

# The configuration as plain YAML: what is expected below follows from it by other code than the workflow's.
CONFIG = ROOT / "config"
ARMS = yaml.safe_load((CONFIG / "arms.yaml").read_text(encoding="utf-8"))
SHOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["arms"] for path in CONFIG.glob("experiments/*.yaml")
}
IN_TABLE = SHOWS["table1"]
FIGURES = [name for name in SHOWS if name != "table1"]


def starts(arm: str) -> list[str]:
    """What the arm starts from or chooses between."""
    return ARMS[arm].get("choose") or [ARMS[arm]["recipe"]["init"]] if "same_as" not in ARMS[arm] else []


def lineage(arm: str) -> set[str]:
    """The arm, what it starts from, and so on; the base model is left out."""
    return {arm}.union(*(lineage(start) for start in starts(arm) if start != "base"))


def reads_expert_traces(arm: str) -> bool:
    recipe = ARMS[arm].get("recipe")
    pure_rl = recipe and recipe["mu"] == {"schedule": "constant", "value": 0.0} and recipe.get("method") != "luffy"
    return bool(recipe) and not pure_rl and recipe.get("traces") != "aligned"


BUILT = set().union(*(lineage(arm) for arms in SHOWS.values() for arm in arms)) - {"original"}


def shown(arms: set[str]) -> set[str]:
    """The page, and every artefact that shows one of the arms."""
    files = {name: ("json", "md", "html") if name == "table1" else ("json", "svg", "png") for name in SHOWS}
    return PAGE.union(*({f"{name}.{end}" for end in files[name]} for name in SHOWS if arms & set(SHOWS[name])))


def figure(*names: str) -> set[str]:
    return {f"{name}.{ending}" for name in names for ending in ("json", "svg", "png")}


def imitates(arm: str) -> bool:
    recipe = ARMS[arm].get("recipe")
    return bool(recipe) and recipe["mu"] == {"schedule": "constant", "value": 1.0}


# Arms that only imitate whose validation is looked at: candidates for a choice, and what a figure shows.
VALIDATED = {name for arm in ARMS.values() for name in arm.get("choose", ())}
VALIDATED |= {name for key in FIGURES for name in SHOWS[key] if imitates(name)}


def trained(arm: str) -> set[str]:
    files = ("model", "metrics.jsonl", "chosen.json" if arm == "sft-best" else "timing.jsonl")
    files += ("validation.json",) if arm == "sft-best" else ("tensorboard",)
    files += ("validation.jsonl", "candidates") if imitates(arm) else ()
    files += ("validation.json",) if arm in VALIDATED else ()
    return {f"runs/{arm}/seed-1/{file}" for file in files}


def described(arm: str) -> set[str]:
    return {f"runs/{arm}/seed-1/run.json"}


def answered(arm: str, *benchmarks: str) -> set[str]:
    return {f"runs/{arm}/seed-1/eval/{benchmark}/answers.jsonl" for benchmark in benchmarks or BENCHMARKS}


def scored(arm: str, *benchmarks: str) -> set[str]:
    return {f"runs/{arm}/seed-1/eval/{benchmark}/scores.json" for benchmark in benchmarks or BENCHMARKS}


def made_again(arms: set[str]) -> set[str]:
    """Models, answers and scores of the arms, and whatever shows them; their run.json stay."""
    files = [trained(arm) | (answered(arm) | scored(arm) if arm in IN_TABLE else set()) for arm in arms]
    return shown(arms).union(*files)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole demo with one seed, built once for all tests here."""
    tree = copied(tmp_path_factory.mktemp("dag") / "a folder, with spaces")
    replace(tree / "config" / "config.yaml", "study: demo", "study: demo\nseeds: [1]")
    done = snakemake(tree, "--cores", "1", "--quiet", "all")
    assert done.returncode == 0, done.stdout
    return tree


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """The built demo, moved: a copy with all times, for one test to edit."""
    return shutil.copytree(built, tmp_path / "moved to")


def command(built: Path, manifest: str) -> dict[str, str]:
    """The flags with which a job was started."""
    words = json.loads((built / "results/demo" / manifest).read_text())
    return dict(zip(words, words[1:], strict=False))


def test_the_whole_demo_is_built_and_then_nothing_is_left_to_do(built: Path) -> None:
    assert {path.name for path in (built / "results" / "demo").iterdir()} >= TABLE | PAGE
    assert planned(built) == set()
    again = snakemake(built, "--cores", "1")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_times_of_files_decide_nothing(tree: Path) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        if ".snakemake" not in path.parts and path.is_file() and path.name != ".snakemake_timestamp":
            os.utime(path)
    assert planned(tree) == set()


def test_a_deleted_score_is_made_again_with_the_table_and_the_page(tree: Path) -> None:
    (tree / "results/demo/runs/chord-phi/seed-1/eval/harder/scores.json").unlink()
    assert planned(tree) == scored("chord-phi", "harder") | TABLE | PAGE
    done = snakemake(tree, "--cores", "1")
    assert done.returncode == 0, done.stdout
    assert re.findall(r"Job \d+: (.*)", done.stdout) == [
        "Scoring harder of chord-phi, seed 1",
        "Tabulating table1",
        "Writing the page of study demo",
        "All that config/config.yaml names is in results/",
    ]


def test_deleted_answers_of_any_benchmark_are_made_again_alone(tree: Path) -> None:
    expected = TABLE | PAGE
    for arm, benchmark in zip(("grpo", "original", "sft-best"), BENCHMARKS, strict=True):
        (tree / f"results/demo/runs/{arm}/seed-1/eval/{benchmark}/answers.jsonl").unlink()
        expected = expected | answered(arm, benchmark) | scored(arm, benchmark)
    assert planned(tree) == expected


def test_a_label_or_a_number_of_the_paper_only_tabulates(tree: Path) -> None:
    replace(tree / "config" / "arms.yaml", "label: SFT-light\n", "label: SFT, a little\n")
    replace(tree / "config" / "experiments" / "table1.yaml", "original: {AMC: <n>", "original: {AMC: 1.5")
    replace(tree / "config" / "studies" / "demo.yaml", "label: word reversal", "label: words backwards")
    assert planned(tree) == TABLE | PAGE


def test_a_label_of_a_figure_only_draws_it(tree: Path) -> None:
    replace(tree / "config" / "arms.yaml", "label: fixed µ = 0.5\n", "label: µ = 0.5\n")
    replace(tree / "config" / "experiments" / "figure2.yaml", "smooth_steps: <n>", "smooth_steps: 7")
    assert planned(tree) == shown({"mu-0.5"}) | figure("figure2")


def test_captions_comments_profiles_and_the_words_of_messages_make_nothing(tree: Path) -> None:
    replace(tree / "workflow/report/overview.rst", "The whole study", "All of the study")
    replace(tree / "config/benchmarks/harder.yaml", "# Four-digit sums", "# Sums of four digits")
    replace(tree / "config/arms.yaml", "# Figure 7: fixed mixtures.", "# Fixed mixtures, Figure 7.")
    replace(tree / "profiles/default/config.yaml", "show-failed-logs: true", "show-failed-logs: false")
    replace(tree / "chord/config/messages.py", '"a whole number"', '"an integer"')
    replace(tree / "workflow/rules/common.smk", 'f"--ahead {', 'f"--ahead  {')  # who does what ahead is no setting
    assert planned(tree) == set()


def test_threads_and_how_often_training_saves_make_nothing(tree: Path) -> None:
    study = tree / "config" / "studies" / "demo.yaml"
    replace(study, "cpu_threads: <n>", "cpu_threads: 2")
    replace(study, "checkpoint_every_steps: <n>", "checkpoint_every_steps: 7")
    replace(study, "checkpoint_every_minutes: <n>", "checkpoint_every_minutes: 1.5")
    assert planned(tree) == set()


def test_how_groups_and_their_loss_are_made_concerns_no_arm_that_only_imitates(tree: Path) -> None:
    study = tree / "config" / "studies" / "demo.yaml"
    replace(study, "clip_low: <n>", "clip_low: 0.3")
    replace(study, "per_prompt: <n>", "per_prompt: 4")
    plan = planned(tree)
    trainings = {file.split("/")[1] for file in plan if file.endswith("metrics.jsonl")}
    assert trainings == {arm for arm in BUILT if not imitates(arm) and arm != "sft-best"}
    assert not {file for file in plan if file.startswith(("models/", "data/")) or file.endswith("validation.json")}


def test_the_mark_before_answers_grades_the_validation_of_sft_anew(tree: Path) -> None:
    replace(tree / "config" / "studies" / "demo.yaml", 'mark: "="', 'mark: ">"')
    plan = planned(tree)
    assert {file.split("/")[1] for file in plan if file.endswith("validation.json")} == VALIDATED | {"sft-best"}


def test_one_value_of_an_arm_makes_that_arm_and_what_shows_it(tree: Path) -> None:
    replace(tree / "config" / "arms.yaml", "peak: 0.9,", "peak: 0.77,")
    arm = described("chord-mu") | trained("chord-mu") | answered("chord-mu") | scored("chord-mu")
    assert planned(tree) == arm | shown({"chord-mu"})


def test_an_arm_that_others_start_from_takes_them_along(tree: Path) -> None:
    study = tree / "config" / "studies" / "demo.yaml"
    replace(study, "sft_learning_rate_low: <n>", "sft_learning_rate_low: 7.0e-9")
    changed = {arm for arm in BUILT if "sft-lr-low" in lineage(arm)}
    assert {"sft-lr-low", "sft-best", "sft-best+rl"} <= changed
    assert planned(tree) == described("sft-lr-low") | made_again(changed)


def test_the_settings_of_one_benchmark_concern_its_own_answers_only(tree: Path) -> None:
    replace(tree / "config" / "benchmarks" / "harder.yaml", "max_gen_toks: <n>", "max_gen_toks: 77")
    cells = [answered(arm, "harder") | scored(arm, "harder") for arm in IN_TABLE]
    assert planned(tree) == set().union(*cells) | TABLE | PAGE


def test_an_edited_expert_trace_concerns_the_arms_that_imitate_and_what_starts_from_them(tree: Path) -> None:
    with (tree / "results/demo/data/traces/expert.jsonl").open("a") as file:
        file.write("one more\n")
    changed = {arm for arm in BUILT if any(map(reads_expert_traces, lineage(arm)))}
    assert "grpo" not in changed
    assert {"chord-mu", "sft-light+rl", "sft-best"} <= changed
    assert planned(tree) == made_again(changed)


def test_a_new_seed_adds_its_own_runs_and_leaves_the_others(tree: Path) -> None:
    replace(tree / "config" / "config.yaml", "seeds: [1]", "seeds: [1, 2]")
    plan = planned(tree)
    new = {file for file in plan if "/seed-2/" in file}
    assert plan - new == TABLE | PAGE | figure(*FIGURES)
    assert {file.split("/")[1] for file in new} == BUILT | {"original"}


def test_values_given_on_the_command_line_hold_for_that_command(tree: Path) -> None:
    plan = planned(tree, "table1", "--config", "seeds=[7]")
    assert {file.split("/")[2] for file in plan if file.startswith("runs/")} == {"seed-7"}
    assert {file for file in plan if not file.startswith("runs/")} == TABLE


def test_every_artefact_is_a_target(built: Path) -> None:
    told = snakemake(built, "--list-target-rules")
    names = {path.stem for path in (built / "config" / "experiments").glob("*.yaml")}
    assert names <= set(told.stdout.split())


def test_the_first_job_of_a_model_is_told_of_the_other_benchmarks(built: Path) -> None:
    words = json.loads((built / "results/demo/runs/grpo/seed-1/eval/harder/answers.manifest.json").read_text())
    run, data = "results/demo/runs/grpo/seed-1/eval", "results/demo/data/benchmarks"
    assert [word for word in words if word.endswith("answers.jsonl")] == [
        f"{run}/harder/answers.jsonl",
        f"in-distribution={data}/in-distribution.jsonl={run}/in-distribution/answers.jsonl",
        f"other-skill={data}/other-skill.jsonl={run}/other-skill/answers.jsonl",
    ]
    words = json.loads((built / "results/demo/runs/grpo/seed-1/eval/harder/scores.manifest.json").read_text())
    other = f"{run}/other-skill"
    assert f"other-skill={other}/answers.jsonl={data}/other-skill.jsonl={other}/scores.json" in words


def test_training_reads_only_what_its_recipe_can_touch(built: Path) -> None:
    data, runs = "results/demo/data", "results/demo/runs"
    read = {
        arm: command(built, f"runs/{arm}/seed-1/train.manifest.json") for arm in ("grpo", "sft-light", "sft-best+rl")
    }
    assert "--traces" not in read["grpo"]
    assert read["grpo"]["--prompts"] == f"{data}/problems/train.jsonl"
    assert read["grpo"]["--start"] == "results/demo/models/base/model"
    assert "--prompts" not in read["sft-light"]
    assert read["sft-light"]["--traces"] == f"{data}/traces/expert.jsonl"
    assert read["sft-best+rl"]["--start"] == f"{runs}/sft-best/seed-1/model"
    base = command(built, "models/base/train.manifest.json")
    assert base["--traces"] == f"{data}/traces/base.jsonl"
    assert not {"--start", "--prompts"} & base.keys()


def test_run_json_says_all_that_training_is_told_and_no_label(built: Path) -> None:
    project = load(built)
    path = built / "results/demo/runs/chord-phi/seed-1/run.json"
    assert Run.read(path) == project.run("chord-phi", 1)
    assert "CHORD" not in path.read_text()
    assert Run.read(built / "results/demo/models/base/run.json").recipe.init == "random"


def test_the_mark_that_snakemake_leaves_in_a_model_does_not_change_its_hash(built: Path, tmp_path: Path) -> None:
    model = built / "results/demo/runs/grpo/seed-1/model"
    assert (model / ".snakemake_timestamp").exists()
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns(".snakemake_timestamp"))
    assert tree_hash(model) == tree_hash(tmp_path / "model")


def test_the_report_is_one_file_with_every_table_and_figure(built: Path, tmp_path: Path) -> None:
    told = snakemake(built, "--cores", "1", "--report", str(tmp_path / "report.html"))
    assert told.returncode == 0, told.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    added = re.findall(r"Adding (\S+) ", told.stdout)
    assert {Path(file).name for file in added} == {"overview.html", "table1.html", *(f"{name}.svg" for name in FIGURES)}
    assert "Shift, readapt" in page
    assert not re.findall(r"""(?:src|href)=["']https?://[^"']*\.(?:js|css)""", page)
