"""Each edit rebuilds exactly what it affects, too many fails and too few; `chord why` says why."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.projects import replace
from tests.workflow.expected import (
    ARMS,
    BASE,
    BENCHMARKS,
    BUILT,
    CLAIMS,
    FIGURES,
    IN_TABLE,
    NUMBERS,
    PAGE,
    TABLE,
    artefact,
    data,
    described,
    evaluated,
    graded,
    grows_from,
    made_again,
    of_built,
    reads_expert_traces,
    recipe,
    samples,
    scored,
    shown,
)
from tests.workflow.tree import build, planned, planned_and_told, snakemake, verb

Edit = Callable[[Path], object]
OBJECTIVE, STEPS = "chord/objective.py", "chord/steps.py"
COMMON, TRAIN, EVALUATE = (f"workflow/rules/{name}.smk" for name in ("common", "train", "evaluate"))
STUDY, HARDER, ALL_ARMS = "config/studies/demo.yaml", "config/benchmarks/harder.yaml", "config/arms.yaml"
TABLE1, FIGURE2 = "config/experiments/table1.yaml", "config/experiments/figure2.yaml"
SLURM = "profiles/slurm/config.yaml"


def edits(*changes: str) -> Edit:
    """Replaces text: file, old, new, file, old, new, ..."""

    def edit(tree: Path) -> None:
        for file, old, new in zip(changes[::3], changes[1::3], changes[2::3], strict=True):
            replace(tree / file, old, new)

    return edit


def append(file: str, text: str = " ") -> Edit:
    def edit(tree: Path) -> None:
        with (tree / file).open("a", encoding="utf-8") as handle:
            handle.write(text)

    return edit


def exchange_benchmarks(tree: Path) -> None:
    lines = (tree / STUDY).read_text(encoding="utf-8").splitlines(keepends=True)
    first, second = (n for n, line in enumerate(lines) if line.startswith(("  in-distribution: ", "  harder: ")))
    lines[first], lines[second] = lines[second], lines[first]
    (tree / STUDY).write_text("".join(lines), encoding="utf-8")


# --- edits of code, config/, pins and rules ----------------------------------------------------

NOTHING: list[Edit] = [
    # comments, docstrings, layout
    edits(OBJECTIVE, "import math\n", "import math  # of numbers\n"),
    edits(OBJECTIVE, '"""phi = p(1-p): 1/4', '"""phi is p(1-p): 1/4'),
    edits(OBJECTIVE, "return p * (1 - p)", "return (p\n            * (1-p))"),
    edits(ALL_ARMS, "# Figure 7: fixed mixtures.", "# Fixed mixtures."),
    edits(HARDER, "# Four-digit sums", "# Sums of four digits"),
    edits("envs/train.txt", "torch==", "# the CPU build too\ntorch=="),
    # code that decides no result of this study
    edits("chord/config/reading.py", '"a whole number"', '"an integer"'),
    edits("chord/provenance/manifest.py", "[:500]", "[:600]"),
    edits(OBJECTIVE, "else min(1.0, max(0.0,", "else min(1.5, max(0.0,"),  # of an arm that is not built
    # how jobs are run
    edits("workflow/report/report.rst", "The whole study", "All of the study"),
    edits("profiles/default/config.yaml", "show-failed-logs: true", "show-failed-logs: false"),
    edits(SLURM, "    gpus: 8\n", "    gpus: 4\n", SLURM, "    runtime: 1440\n", "    runtime: 100\n"),
    edits(STUDY, "cpu_threads: <n>", "cpu_threads: 2"),
    edits(STUDY, "checkpoint_every_minutes: <n>", "checkpoint_every_minutes: 1.5"),
    edits(STUDY, "checkpoint_every_steps: <n>", "checkpoint_every_steps: 3"),
    # comments, messages, logs, turns, threads, memory, environments and names of rules
    edits(TRAIN, "# Models. One trainer", "# The models. One trainer"),
    edits(TRAIN, '"Training {wildcards.arm} by imitation, seed', '"Imitating with {wildcards.arm}, seed'),
    edits(EVALUATE, "{benchmark}/score.log", "{benchmark}/scoring.log"),
    edits(EVALUATE, "    priority: turn(0)\n", "    priority: 3\n    resources:\n        mem_mb=999,\n"),
    edits(EVALUATE, "    threads: project.study.execution.cpu_threads\n", "    threads: 2\n"),
    edits(EVALUATE, 'environment("score")', '"../../envs/generate.yaml"'),
    edits(COMMON, '"""What a job writes, as flags."""', '"""What is written, as flags."""'),
    edits(EVALUATE, "rule score:", "rule grade:"),
    # the layout of a command, what starts it, and who does what ahead
    edits(COMMON, 'f"--ahead {', 'f"--ahead  {'),
    edits(EVALUATE, '"python -m chord generate --study', '"OMP_NUM_THREADS=1 nice python3 -m  chord generate  --study'),
    edits(
        *(EVALUATE, "--seed {wildcards.seed} {params.reads} {params.writes}"),
        "{params.writes} --problems={input.problems} --model ./{input.model} --seed={wildcards.seed}",
    ),
    edits(EVALUATE, "{params.ahead} > {log} 2>&1", "{params.ahead} 2> {log} >> {log}"),
    edits(
        *(TRAIN, "{params.launcher}python -m chord train"),
        "srun --ntasks=1 python -m chord launch --per-node 2 -- python -m chord train",
    ),
    # what lists of tasks call a benchmark
    edits(HARDER, "task: harder\n", "task: harder\ntask_alias: Harder sums\ntag: [sums, four]\n"),
    edits(HARDER, "metadata:\n", "metadata:\n  description: sums of four digits\n"),
]


def test_what_decides_nothing_rebuilds_nothing_all_of_it_at_once(tree: Path) -> None:
    for edit in NOTHING:
        edit(tree)
    found, told = planned_and_told(tree)
    assert found == set(), told


def with_weight(weight: str) -> set[str]:
    return grows_from(of_built(lambda arm: recipe(arm).get("expert_tokens", {"weight": "one"})["weight"] == weight))


RL, EXPERTS = grows_from(of_built(samples)), grows_from(of_built(reads_expert_traces))
LUFFY = grows_from({"luffy"})
SELECTED = grows_from(of_built(lambda arm: "choose" in ARMS[arm]))
ANSWERS = evaluated({"original", *BUILT}) | NUMBERS
MODELS = BASE | made_again(BUILT) | ANSWERS
SCORES = scored(IN_TABLE) | NUMBERS
HARDER_ANSWERS = evaluated(IN_TABLE, "harder") | NUMBERS
VALIDATION = 'reads | {"validation": PROBLEMS("validation")}'
LUFFY_VALIDATION = VALIDATION.replace('"validation")', '"train" if job["arm"] == "luffy" else "validation")')
SEED = 'self.project.run(wildcards["arm"], int(wildcards["seed"])'
A_LABEL_AND_A_FIGURE = "a label in a figure, and how another is smoothed"
ONE_TRAINING = "what one training validates on"

EXACTLY: dict[str, tuple[Edit, set[str]]] = {
    # what jobs read, and with which flags they are started
    ONE_TRAINING: (edits(STEPS, VALIDATION, LUFFY_VALIDATION), made_again(LUFFY)),
    "in which order a choice looks at its candidates": (
        edits(STEPS, "for name in arm.choose or ()]", "for name in (arm.choose or ())[::-1]]"), made_again(SELECTED)
    ),
    "the seed that a rule writes into run.json": (
        edits(STEPS, f"{SEED})", f"{SEED} + 1)"), made_again(BUILT) | described(*of_built(recipe))
    ),
    "the seed of answers": (edits(EVALUATE, "--seed {wildcards.seed}", "--seed 7"), ANSWERS),
    # code
    "the phi function": (
        edits(OBJECTIVE, "return p * (1 - p)", "return p * (1 - p) * 1.0"), made_again(with_weight("p(1-p)"))
    ),
    "code that judges": (
        edits("chord/findings/claims.py", "return 100 if measure", "return 10 * 10 if measure"), CLAIMS | PAGE
    ),
    "code that draws figures": (
        edits("chord/findings/figures.py", "MARKED_POINTS = 11", "MARKED_POINTS = 9"), artefact(*FIGURES) | PAGE
    ),
    "code that makes tables": (
        edits("chord/findings/rendering.py", "NONE, NOT_PUBLISHED = ", "NONE, NOT_PUBLISHED = *() , *"), NUMBERS
    ),
    "the template of a table's own page": (append("chord/findings/web/table.html"), TABLE | PAGE),
    "the template of the verdicts": (append("chord/findings/web/claims.html"), CLAIMS | PAGE),
    "the template of the page": (append("chord/findings/web/page.html"), PAGE),
    # arms, artefacts and claims
    "one value of an arm": (
        edits(ALL_ARMS, "peak: 0.9,", "peak: 0.77,"), described("chord-mu") | made_again({"chord-mu"})
    ),
    "a value of an arm that others start from": (
        edits(STUDY, "sft_learning_rate_low: <n>", "sft_learning_rate_low: 7.0e-9"),
        described("sft-lr-low") | made_again(grows_from({"sft-lr-low"})),
    ),
    "a column's heading": (edits(STUDY, "label: word reversal", "label: words backwards"), NUMBERS),
    "a number of the paper": (edits(TABLE1, "original: {AMC: <n>", "original: {AMC: 1.5"), TABLE | PAGE),
    A_LABEL_AND_A_FIGURE: (
        edits(
            *(ALL_ARMS, "label: fixed µ = 0.5\n", "label: µ = 0.5\n"),
            *(FIGURE2, "smooth_steps: <n>", "smooth_steps: 7"),
        ),
        shown({"mu-0.5"}) | artefact("figure2"),
    ),
    "the smallest effect of interest": (edits("config/claims.yaml", "size: 5,", "size: 6,"), CLAIMS | PAGE),
    "the sentence of a claim": (
        edits("config/claims.yaml", "sentence: The decayed µ ends", "sentence: A decayed µ ends"), CLAIMS | PAGE
    ),
    # benchmarks
    "one benchmark's samples for each problem": (
        edits(
            *(HARDER, "repeats: 4", "repeats: 8", HARDER, "k: 4", "k: 8"),
            *(HARDER, "avg@4", "avg@8", HARDER, "pass@4", "pass@8"),
        ),
        HARDER_ANSWERS,
    ),
    "the order of two benchmarks": (exchange_benchmarks, NUMBERS),
    # the study's data and training
    "how groups and their loss are made": (
        edits(STUDY, "clip_low: <n>", "clip_low: 0.3", STUDY, "per_prompt: <n>", "per_prompt: 4"),
        made_again(RL) | described(*of_built(samples)),
    ),
    "the style of the expert": (
        edits(STUDY, "style: checked}", "style: worked}"),
        data("traces", "expert", "aligned") | made_again(EXPERTS | LUFFY),
    ),
    "the training problems": (
        edits(STUDY, "train: {task: sum-3, size: <n>}", "train: {task: sum-3, size: 1000}"),
        data("problems", "train") | data("traces", "aligned") | made_again(RL),
    ),
    "the base corpus": (
        edits(STUDY, "task: sum-2, style: worked", "task: sum-2, style: terse"), data("traces", "base") | MODELS
    ),
    # pins
    "a pin of the report": (
        edits("envs/report.txt", "numpy==", "numpy==9."), artefact("table1", *FIGURES) | PAGE | CLAIMS
    ),
    "a pin of scoring": (
        edits("envs/evaluate.txt", "math-verify==", "math-verify==9."),
        SCORES | graded(BUILT) | made_again(grows_from({"sft-best"})) | artefact("figure2"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", EXACTLY)
def test_an_edit_rebuilds_exactly_what_it_affects(tree: Path, edit: str) -> None:
    change, expected = EXACTLY[edit]
    change(tree)
    found = planned(tree)
    assert expected
    assert sorted(found - expected) == [], "too many"
    assert sorted(expected - found) == [], "too few"


def test_what_an_edit_made_stale_is_made_once_and_then_all_is_fresh_also_when_the_edit_is_taken_back(
    tree: Path,
) -> None:
    change, expected = EXACTLY[A_LABEL_AND_A_FIGURE]
    before = {path: path.read_text() for path in (tree / "config").rglob("*.yaml")}
    for turn, is_edited in enumerate((True, False, True)):
        if is_edited:
            change(tree)
        else:
            for path, text in before.items():
                path.write_text(text)
        assert planned(tree) == expected, turn
        build(tree)
        assert planned(tree) == set()


def test_a_new_seed_adds_its_own_runs_and_leaves_the_others(tree: Path) -> None:
    replace(tree / "config/config.yaml", "seeds: [1]", "seeds: [1, 2]")
    plan = planned(tree)
    new = {file for file in plan if "/seed-2/" in file}
    assert plan - new == NUMBERS | artefact(*FIGURES)
    assert {file.split("/")[1] for file in new} == {"original", *BUILT}


def test_a_new_arm_adds_its_own_runs_and_leaves_the_others(tree: Path) -> None:
    arm = "{init: base, mu: {schedule: constant, value: 0.3}, steps: 9, learning_rate: 1.0e-4}"
    append(ALL_ARMS, f"\nmu-new:\n  label: new\n  recipe: {arm}\n")(tree)
    replace(tree / TABLE1, "arms: [original,", "arms: [mu-new, original,")
    plan = planned(tree)
    new = {file for file in plan if file.startswith("runs/mu-new/")}
    assert plan - new == NUMBERS
    assert len(new) == 1 + 4 + 2 * len(BENCHMARKS)  # run.json; model, metrics, timing, curves; answers and scores


# --- edits of results --------------------------------------------------------------------------

RUN = "runs/chord-phi/seed-1"
BY_HAND: dict[str, set[str]] = {
    f"{RUN}/model/file": made_again({"chord-phi"}),
    f"{RUN}/metrics.jsonl": made_again({"chord-phi"}),
    f"{RUN}/eval/harder/answers.jsonl": evaluated({"chord-phi"}, "harder") | NUMBERS,
    f"{RUN}/eval/harder/scores.json": scored({"chord-phi"}, "harder") | NUMBERS,
    f"{RUN}/run.json": described("chord-phi") | made_again({"chord-phi"}),
    "table1.json": TABLE | PAGE,
    "figure4.svg": artefact("figure4") | PAGE,
    "claims.json": CLAIMS | PAGE,
    "report.html": PAGE,
    "data/benchmarks/harder.jsonl": data("benchmarks", "harder") | HARDER_ANSWERS,
    "models/base/model/file": MODELS,
}


@pytest.mark.parametrize("file", BY_HAND)
def test_an_output_edited_or_deleted_by_hand_is_made_again_with_all_below_and_an_edit_is_told(
    tree: Path, file: str
) -> None:
    append(f"results/demo/{file}")(tree)
    found, told = planned_and_told(tree)
    assert found == BY_HAND[file]
    name = file.removesuffix("/file").split("/")[-1]
    by_job = rf"{re.escape(name)}: found SHA-256 \w+.*, expected \w+ as chord \w+ recorded"
    assert re.search("^stale: " + ("output run.json: " if name == "run.json" else by_job), told, re.MULTILINE), told
    (tree / "results/demo" / file).unlink()
    assert planned(tree) == BY_HAND[file]


def test_a_manifest_of_another_shape_is_named_and_its_job_runs_again(tree: Path) -> None:
    shapes = {"chord-phi": lambda manifest: manifest | {"inputs": []}, "mu-0.5": lambda manifest: [manifest]}
    for arm, shape in shapes.items():
        path = tree / f"results/demo/runs/{arm}/seed-1/train.manifest.json"
        path.write_text(json.dumps(shape(json.loads(path.read_text()))))
    assert planned(tree) == made_again(set(shapes))
    told = verb(tree, "chord why")
    assert told.returncode == 0, told.stdout
    for arm in shapes:
        assert f"train runs/{arm}/seed-1: train.manifest.json: found " in told.stdout


def test_results_may_lie_on_other_disks_and_be_linked_to(tree: Path, tmp_path: Path) -> None:
    scores = "runs/grpo/seed-1/eval/harder/scores.json"
    for number, place in enumerate((f"{RUN}/model", scores, RUN, "runs", "data", "", "..")):
        path, disk = Path(os.path.normpath(tree / "results/demo" / place)), tmp_path / f"disk-{number}"
        path.rename(disk)
        path.symlink_to(disk)
    assert planned(tree) == set()
    append(f"results/demo/{scores}")(tree)
    append(f"results/demo/{RUN}/model/file")(tree)
    assert planned(tree) == scored({"grpo"}, "harder") | BY_HAND[f"{RUN}/model/file"]
    build(tree)
    assert planned(tree) == set()


# --- times and copies --------------------------------------------------------------------------


def states(folder: Path) -> dict[Path, tuple[int, ...]]:
    """What a change of a file, of its times or of what a folder holds would change."""
    stats = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for path, stat in stats.items()}


def test_times_of_files_decide_nothing_and_a_plan_changes_nothing(tree: Path) -> None:
    everything = [path for path in tree.rglob("*") if not {".snakemake", "__pycache__"} & {*path.parts}]
    for number, path in enumerate(sorted(everything)):
        when = (0, time.time() + 7200, time.time() - 7200)[number % 3]
        os.utime(path, (when, when))
    before = states(tree / "results")
    assert planned(tree) == set()
    change, expected = EXACTLY[A_LABEL_AND_A_FIGURE]
    change(tree)
    assert planned(tree) == expected
    assert "plot figure2" in verb(tree, "chord why").stdout
    assert "plot" in snakemake(tree, "--dry-run").stdout
    assert states(tree / "results") == before
    build(tree)
    assert planned(tree) == set()


def test_a_fresh_clone_with_results_copied_in_rebuilds_nothing_and_sees_later_edits(tree: Path, tmp_path: Path) -> None:
    """No record of Snakemake, and times in an order that means nothing."""
    unwanted = shutil.ignore_patterns(".snakemake", "__pycache__")
    clone = shutil.copytree(tree, tmp_path / "clone", ignore=unwanted, copy_function=shutil.copyfile)
    for number, path in enumerate(sorted(clone.rglob("*"), reverse=True)):
        if path.is_file():
            os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    assert planned(clone) == set()
    change, expected = EXACTLY["the phi function"]
    change(clone)
    assert planned(clone) == expected


def test_a_job_of_a_cluster_looks_nothing_over(tree: Path) -> None:
    """A job starts Snakemake anew, with --mode remote: it must not plan what its parent did not."""
    append("results/demo/table1.json")(tree)
    command = [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--quiet", "all", "--mode", "remote"]
    remote = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert "stale" not in remote.stdout + remote.stderr


# --- chord why ---------------------------------------------------------------------------------


def test_what_an_edited_rule_made_stale_is_told_by_why_and_audit_and_fresh_once_it_is_made(tree: Path) -> None:
    change, expected = EXACTLY[ONE_TRAINING]
    change(tree)
    sentence = "reads validation: data/problems/validation.jsonl -> data/problems/train.jsonl"
    for is_made in (False, True):
        if is_made:
            build(tree)
        told = verb(tree, "chord why").stdout
        assert (f"train runs/luffy/seed-1: {sentence}.\n" in told) is not is_made, told
        audited = json.loads(verb(tree, "chord audit", "--json").stdout)
        stale = {one["path"]: one["found"] for one in audited["findings"] if one["status"] == "stale"}
        # The page is made by code that reads the table of steps, which the edit is in.
        assert stale.keys() <= {"results/demo/runs/luffy/seed-1/model", "results/demo/report.html"}
        assert stale.get("results/demo/runs/luffy/seed-1/model") == (None if is_made else sentence)
        assert planned(tree) == (set() if is_made else expected)


def test_commands_are_compared_where_they_differ_and_nowhere_else(tree: Path) -> None:
    EXACTLY["the seed of answers"][0](tree)
    told = verb(tree, "chord why", "table1").stdout
    assert "generate runs/grpo/seed-1/eval/harder: command --seed: 1 -> 7." in told.splitlines(), told
    assert told.count("command --") == len(IN_TABLE) * len(BENCHMARKS)


def test_why_says_one_sentence_a_job_with_old_and_new_values(tree: Path) -> None:
    shutil.rmtree(tree / ".snakemake")  # as in a fresh clone: Snakemake's own records are not needed
    EXACTLY["one value of an arm"][0](tree)
    EXACTLY["code that draws figures"][0](tree)
    (tree / "results/demo/runs/grpo/seed-1/eval/harder/scores.json").unlink()
    append("results/demo/runs/sft-light/seed-1/eval/harder/scores.json")(tree)
    told = verb(tree, "chord why", "table1", "figure4")
    assert told.returncode == 0, told.stdout
    lines = dict(line.split(": ", 1) for line in told.stdout.splitlines() if ": " in line)
    assert lines["describe_run runs/chord-mu/seed-1"] == "settings recipe.mu.peak: 0.9 -> 0.77."
    assert lines["train runs/chord-mu/seed-1"] == "reads what is made again: runs/chord-mu/seed-1/run.json."
    assert lines["generate runs/chord-mu/seed-1/eval/harder"].startswith("reads what is made again: runs/chord-mu/")
    gone = "scores.json: found nothing there, expected what chord score made."
    assert lines["score runs/grpo/seed-1/eval/harder"] == gone
    assert lines["score runs/sft-light/seed-1/eval/harder"].startswith("scores.json: found SHA-256 ")
    assert lines["plot figure4"].startswith("code chord.findings.figures.MARKED_POINTS: ")
    cells = [f"{rule} runs/chord-mu/seed-1/eval/{name}" for rule in ("generate", "score") for name in BENCHMARKS]
    changed = ["describe_run runs/chord-mu/seed-1", "train runs/chord-mu/seed-1", *cells]
    scores = [f"score runs/{arm}/seed-1/eval/harder" for arm in ("grpo", "sft-light")]
    assert lines.keys() == {*changed, *scores, "tabulate table1", "plot figure4"}
    again = verb(tree, "chord why", "table1", "figure4", "--json")
    assert len(json.loads(again.stdout)) == int(told.stdout.split()[-4])


def test_why_says_that_nothing_would_run_and_refuses_a_target_that_is_none(built: Path) -> None:
    told = verb(built, "chord why")
    assert told.stdout.splitlines() == ["Nothing would run: all is as the present project makes it."]
    told = verb(built, "chord why", "tabel1")
    assert told.returncode == 2
    assert "tabel1" in told.stdout and "Traceback" not in told.stdout
