"""Issue by issue of the README's table: each edit rebuilds exactly what it affects. Too many fails, too few fails."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.expected import (
    ARMS,
    BASE,
    BENCHMARKS,
    BUILT,
    CLAIMS,
    FIGURES,
    IN_TABLE,
    PAGE,
    TABLE,
    answered,
    artefact,
    benchmark_problems,
    described,
    evaluated,
    graded,
    grows_from,
    made_again,
    problems,
    reads_expert_traces,
    recipe,
    samples,
    scored,
    shown,
    traces,
)
from tests.workflow.tree import planned, planned_and_told, replace, run, snakemake

Edit = Callable[[Path], None]
ALL = {"original", *BUILT}
EVERYTHING_TRAINED = BASE | made_again(BUILT) | evaluated(ALL)


def edits(*changes: tuple[str, str, str]) -> Edit:
    def edit(tree: Path) -> None:
        for file, old, new in changes:
            replace(tree / file, old, new)

    return edit


def append(file: str, text: str) -> Edit:
    def edit(tree: Path) -> None:
        with (tree / file).open("a", encoding="utf-8") as handle:
            handle.write(text)

    return edit


def exchange_benchmarks(tree: Path) -> None:
    study = tree / "config/studies/demo.yaml"
    lines = study.read_text(encoding="utf-8").splitlines(keepends=True)
    first, second = (n for n, line in enumerate(lines) if line.startswith(("  in-distribution: ", "  harder: ")))
    lines[first], lines[second] = lines[second], lines[first]
    study.write_text("".join(lines), encoding="utf-8")


def rename_a_module(tree: Path) -> None:
    (tree / "chord/training/batch.py").rename(tree / "chord/training/sorting.py")
    for file in (tree / "chord").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("chord.training.batch ", "chord.training.sorting "), encoding="utf-8")


def with_weight(weight: str) -> set[str]:
    return {arm for arm in BUILT if recipe(arm).get("expert_tokens", {"weight": "one"})["weight"] == weight}


def with_method(method: str) -> set[str]:
    return {arm for arm in BUILT if recipe(arm).get("method") == method}


def imitates(arm: str) -> bool:
    return reads_expert_traces(arm) or recipe(arm).get("traces") == "aligned"


RL = grows_from({arm for arm in BUILT if samples(arm)})
EXPERTS = grows_from({arm for arm in BUILT if reads_expert_traces(arm)})
GRADED_AGAIN = grows_from({arm for arm in BUILT if samples(arm) or "choose" in ARMS[arm]})
SFT_GRADES = set().union(*(graded(arm) for arm in BUILT))
SCORES = TABLE.union(PAGE, CLAIMS, *(scored(arm) for arm in IN_TABLE))
HARDER = TABLE.union(PAGE, CLAIMS, *(answered(arm, "harder") | scored(arm, "harder") for arm in IN_TABLE))
OBJECTIVE, TASKS = "chord/objective.py", "chord/grading"
COMMON, TRAIN, EVALUATE = (f"workflow/rules/{name}.smk" for name in ("common", "train", "evaluate"))
STEPS, NEXT_SEED = "chord/steps.py", 'self.project.run(wildcards["arm"], int(wildcards["seed"]) + 1)'
VALIDATED = 'reads | {"validation": PROBLEMS("validation")}'
LUFFY_READS = 'reads | {"validation": PROBLEMS("train" if wildcards["arm"] == "luffy" else "validation")}'

NOTHING: dict[str, Edit] = {
    "a comment in the losses": edits((OBJECTIVE, "import math\n", "import math  # of numbers\n")),
    "a docstring of phi": edits((OBJECTIVE, '"""phi = p(1-p): 1/4', '"""phi is p(1-p): 1/4')),
    "formatting": edits((OBJECTIVE, "return p * (1 - p)", "return (p\n            * (1-p))")),
    "a comment in arms.yaml": edits(("config/arms.yaml", "# Figure 7: fixed mixtures.", "# Fixed mixtures.")),
    "a comment in a benchmark": edits(("config/benchmarks/harder.yaml", "# Four-digit sums", "# Sums of four digits")),
    "a comment among pins": edits(("envs/train.txt", "torch==", "# the CPU build too\ntorch==")),
    "words of a message": edits(("chord/config/reading.py", '"a whole number"', '"an integer"')),
    "a caption": edits(("workflow/report/report.rst", "The whole study", "All of the study")),
    "a profile": edits(("profiles/default/config.yaml", "show-failed-logs: true", "show-failed-logs: false")),
    "GPUs and partition": edits(
        ("profiles/slurm/config.yaml", "    gpus: 8\n", "    gpus: 4\n"),
        ("profiles/slurm/config.yaml", "    runtime: 1440\n", "    runtime: 100\n"),
    ),
    "threads": edits(("config/studies/demo.yaml", "cpu_threads: <n>", "cpu_threads: 2")),
    "minutes between checkpoints": edits(
        ("config/studies/demo.yaml", "checkpoint_every_minutes: <n>", "checkpoint_every_minutes: 1.5")
    ),
    "how often training saves": edits(
        ("config/studies/demo.yaml", "checkpoint_every_steps: <n>", "checkpoint_every_steps: 3")
    ),
    "who does what ahead": edits(("workflow/rules/common.smk", 'f"--ahead {', 'f"--ahead  {')),
    "comments, messages, logs, turns, threads, memory and environments of rules": edits(
        (TRAIN, "# Models. One trainer", "# The models. One trainer"),
        (TRAIN, '"Training {wildcards.arm} by imitation, seed', '"Imitating with {wildcards.arm}, seed'),
        (EVALUATE, "{benchmark}/score.log", "{benchmark}/scoring.log"),
        (EVALUATE, "    priority: scoring_turn\n", "    priority: 3\n    resources:\n        mem_mb=999,\n"),
        (EVALUATE, "    threads: project.study.execution.cpu_threads\n", "    threads: 2\n"),
        (EVALUATE, '"../../envs/evaluate.yaml"', '"../../envs/generate.yaml"'),
        (COMMON, '"""What a job writes, as flags."""', '"""What is written, as flags."""'),
    ),
    "the name of a rule": edits((EVALUATE, "rule score:", "rule grade:")),
    "the layout of a command, and what starts it": edits(
        (EVALUATE, '"python -m chord generate --study', '"OMP_NUM_THREADS=1 nice python3 -m  chord generate   --study'),
        (
            EVALUATE,
            "--seed {wildcards.seed} {params.reads} {params.writes}",
            "{params.writes} --problems={input.problems} --model ./{input.model} --seed={wildcards.seed}",
        ),
        (EVALUATE, "{params.ahead} > {log} 2>&1", "{params.ahead} 2> {log} >> {log}"),
        (
            TRAIN,
            "{params.launcher}python -m chord train",
            "srun --ntasks=1 python -m chord launch --per-node 2 -- python -m chord train",
        ),
    ),
    "what lists of tasks call a benchmark": edits(
        (
            "config/benchmarks/harder.yaml",
            "task: harder\n",
            "task: harder\ntask_alias: Harder sums\ntag: [sums, four]\n",
        ),
        ("config/benchmarks/harder.yaml", "metadata:\n", "metadata:\n  description: sums of four digits\n"),
    ),
    "code that keeps records": edits(("chord/provenance/manifest.py", "[:500]", "[:600]")),
    "another name of a module": rename_a_module,
    "code that nothing calls": append(OBJECTIVE, "\n\ndef square(p: float) -> float:\n    return p * p\n"),
    "code of an arm that is not built": edits((OBJECTIVE, "else min(1.0, max(0.0,", "else min(1.5, max(0.0,")),
}


def test_what_decides_nothing_rebuilds_nothing_all_of_it_at_once(tree: Path) -> None:
    for edit in NOTHING.values():
        edit(tree)
    found, told = planned_and_told(tree)
    assert found == set(), told


EXACTLY: dict[str, tuple[Edit, set[str]]] = {
    "what every training validates on": (
        edits((STEPS, VALIDATED, VALIDATED.replace('("validation', '("train'))),
        made_again(BUILT),
    ),
    "what one training validates on": (
        edits((STEPS, VALIDATED, LUFFY_READS)),
        made_again(grows_from({"luffy"})),
    ),
    "what the base model validates on": (
        edits((STEPS, '(corpus), "validation": PROBLEMS("validation")', '(corpus), "validation": PROBLEMS("train")')),
        EVERYTHING_TRAINED,
    ),
    "a file that trainings no longer read": (
        edits((STEPS, 'reads["solved"] = PROBLEMS', "solved = PROBLEMS")),
        made_again(grows_from({arm for arm in BUILT if samples(arm) and imitates(arm)})),
    ),
    "the seed of answers": (
        edits((EVALUATE, "--seed {wildcards.seed}", "--seed 7")),
        evaluated(ALL) | TABLE | PAGE | CLAIMS,
    ),
    "a flag more for answers": (
        edits((EVALUATE, "--seed {wildcards.seed}", "--greedy --seed {wildcards.seed}")),
        evaluated(ALL) | TABLE | PAGE | CLAIMS,
    ),
    "in which order a choice looks at its candidates": (
        edits((STEPS, "for name in arm.choose or ()]", "for name in (arm.choose or ())[::-1]]")),
        made_again(grows_from({arm for arm in BUILT if "choose" in ARMS[arm]})),
    ),
    "the seed that a rule writes into run.json": (
        edits((STEPS, 'self.project.run(wildcards["arm"], int(wildcards["seed"]))', NEXT_SEED)),
        made_again(BUILT).union(*(described(arm) for arm in BUILT if recipe(arm))),
    ),
    "the phi function": (
        edits((OBJECTIVE, "return p * (1 - p)", "return p * (1 - p) * 1.0")),
        made_again(grows_from(with_weight("p(1-p)"))),
    ),
    "the weight of importance sampling": (
        edits((OBJECTIVE, "return tokens.logp.detach().exp()\n", "return 1.0 * tokens.logp.detach().exp()\n")),
        made_again(grows_from(with_weight("p"))),
    ),
    "code of luffy alone": (
        edits((OBJECTIVE, "(advantage * p / (p + gamma))", "(advantage * p / (gamma + p))")),
        made_again(grows_from(with_method("luffy"))),
    ),
    "code of sasr alone": (
        edits((OBJECTIVE, "if total > 0", "if total > 0.0")),
        made_again(grows_from(with_method("sasr"))),
    ),
    "the decay of mu": (
        edits((OBJECTIVE, "share = (1 + math.cos(", "share = (1.0 + math.cos(")),
        made_again(grows_from({arm for arm in BUILT if recipe(arm).get("mu", {}).get("schedule") == "decay"})),
    ),
    "the clipped policy gradient": (
        edits((OBJECTIVE, "TokenSum(-gain.sum(), ", "TokenSum(-1 * gain.sum(), ")),
        made_again(RL),
    ),
    "the mixture of both losses": (
        edits((OBJECTIVE, "parts.append((1 - mu) *", "parts.append((1.0 - mu) *")),
        EVERYTHING_TRAINED,
    ),
    "the answer grader": (
        edits((f"{TASKS}/graders.py", "given = after.strip()", 'given = after.strip(" ")')),
        made_again(GRADED_AGAIN) | SFT_GRADES | SCORES | artefact("figure2"),
    ),
    "the reward": (
        edits((f"{TASKS}/graders.py", "Outcome.UNPARSABLE: -0.1,", "Outcome.UNPARSABLE: -0.2,")),
        made_again(RL),
    ),
    "which reward the study pays": (
        edits(("config/studies/demo.yaml", "reward: paper-math", "reward: binary")),
        made_again(RL) | set().union(*(described(arm) for arm in BUILT if samples(arm))),
    ),
    "how groups and their loss are made": (
        edits(
            ("config/studies/demo.yaml", "clip_low: <n>", "clip_low: 0.3"),
            ("config/studies/demo.yaml", "per_prompt: <n>", "per_prompt: 4"),
        ),
        made_again(RL) | set().union(*(described(arm) for arm in BUILT if samples(arm))),
    ),
    "one value of an arm": (
        edits(("config/arms.yaml", "peak: 0.9,", "peak: 0.77,")),
        described("chord-mu") | made_again({"chord-mu"}),
    ),
    "a value of an arm that others start from": (
        edits(("config/studies/demo.yaml", "sft_learning_rate_low: <n>", "sft_learning_rate_low: 7.0e-9")),
        described("sft-lr-low") | made_again(grows_from({"sft-lr-low"})),
    ),
    "an arm's label, a number of the paper, a column's heading": (
        edits(
            ("config/arms.yaml", "label: SFT-light\n", "label: SFT, a little\n"),
            ("config/experiments/table1.yaml", "original: {AMC: <n>", "original: {AMC: 1.5"),
            ("config/studies/demo.yaml", "label: word reversal", "label: words backwards"),
        ),
        TABLE | PAGE | CLAIMS,
    ),
    "a number of the paper alone": (
        edits(("config/experiments/table1.yaml", "original: {AMC: <n>", "original: {AMC: 1.5")),
        TABLE | PAGE,
    ),
    "how a figure is smoothed": (
        edits(("config/experiments/figure2.yaml", "smooth_steps: <n>", "smooth_steps: 7")),
        artefact("figure2") | PAGE,
    ),
    "the margin of a claim": (edits(("config/claims.yaml", "margin: 5}", "margin: 6}")), CLAIMS | PAGE),
    "the sentence of a claim": (
        edits(("config/claims.yaml", "sentence: No fixed µ beats", "sentence: No constant µ beats")),
        CLAIMS | PAGE,
    ),
    "code that judges": (
        edits(("chord/findings/claims.py", "return 100 if measure", "return 10 * 10 if measure")),
        CLAIMS | PAGE,
    ),
    "a label in a figure, and how another is smoothed": (
        edits(
            ("config/arms.yaml", "label: fixed µ = 0.5\n", "label: µ = 0.5\n"),
            ("config/experiments/figure2.yaml", "smooth_steps: <n>", "smooth_steps: 7"),
        ),
        shown({"mu-0.5"}) | artefact("figure2"),
    ),
    "one benchmark's samples for each problem": (
        edits(
            ("config/benchmarks/harder.yaml", "repeats: 4", "repeats: 8"),
            ("config/benchmarks/harder.yaml", "k: 4", "k: 8"),
            ("config/benchmarks/harder.yaml", "avg@4", "avg@8"),
            ("config/benchmarks/harder.yaml", "pass@4", "pass@8"),
        ),
        HARDER,
    ),
    "the order of two benchmarks": (exchange_benchmarks, TABLE | PAGE | CLAIMS),
    "one benchmark's number of problems": (
        edits(("config/studies/demo.yaml", "problems: {task: sum-4, size: <n>}", "problems: {task: sum-4, size: 77}")),
        benchmark_problems("harder") | HARDER,
    ),
    "code that draws figures": (
        edits(("chord/findings/figures.py", "MARKED_POINTS = 11", "MARKED_POINTS = 9")),
        artefact(*FIGURES) | PAGE,
    ),
    "code that makes tables": (
        edits(("chord/findings/rendering.py", "NONE, NOT_PUBLISHED = ", "NONE, NOT_PUBLISHED = *() , *")),
        TABLE | PAGE,
    ),
    "the template of a table's own page": (append("chord/findings/web/table.html", " "), TABLE | PAGE),
    "the template of the verdicts": (append("chord/findings/web/claims.html", " "), CLAIMS | PAGE),
    "the template of the page": (append("chord/findings/web/page.html", " "), PAGE),
    "more expert problems": (
        edits(("config/studies/demo.yaml", "expert: {task: sum-3, size: <n>}", "expert: {task: sum-3, size: 300}")),
        problems("expert") | traces("expert") | made_again(EXPERTS),
    ),
    "the style of the expert": (
        edits(("config/studies/demo.yaml", "style: checked}", "style: worked}")),
        traces("expert", "aligned") | made_again(EXPERTS | grows_from(with_method("luffy"))),
    ),
    "one more expert trace, by hand": (
        append("results/demo/data/traces/expert.jsonl", "one more\n"),
        traces("expert") | made_again(EXPERTS),
    ),
    "the training problems": (
        edits(("config/studies/demo.yaml", "train: {task: sum-3, size: <n>}", "train: {task: sum-3, size: 1000}")),
        problems("train") | (traces("aligned") if with_method("luffy") else set()) | made_again(RL),
    ),
    "the base corpus": (
        edits(("config/studies/demo.yaml", "task: sum-2, style: worked", "task: sum-2, style: terse")),
        traces("base") | EVERYTHING_TRAINED,
    ),
    "a pin of the report": (
        edits(("envs/report.txt", "numpy==", "numpy==9.")),
        artefact("table1", *FIGURES) | PAGE | CLAIMS,
    ),
    "a pin of training": (edits(("envs/train.txt", "torch==", "torch==9.")), EVERYTHING_TRAINED),
    "a pin of answering": (
        edits(("envs/generate.txt", "transformers==", "transformers==9.")),
        evaluated(ALL) | TABLE | PAGE | CLAIMS,
    ),
    "a pin of scoring": (
        edits(("envs/evaluate.txt", "math-verify==", "math-verify==9.")),
        SCORES | SFT_GRADES | made_again(grows_from({"sft-best"})) | artefact("figure2"),
    ),
}


@pytest.mark.parametrize("edit", EXACTLY)
def test_an_edit_rebuilds_exactly_what_it_affects(tree: Path, edit: str) -> None:
    change, expected = EXACTLY[edit]
    change(tree)
    found = planned(tree)
    assert expected
    assert sorted(found - expected) == [], "too many"
    assert sorted(expected - found) == [], "too few"


def copied_in(tree: Path, place: Path) -> Path:
    """A fresh clone with results/ copied in: no record of Snakemake, and times in an order that means nothing."""
    shutil.copytree(tree, place, ignore=shutil.ignore_patterns(".snakemake"), copy_function=shutil.copyfile)
    for number, path in enumerate(sorted(place.rglob("*"), reverse=True)):
        if path.is_file():
            os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    return place


def test_touching_everything_rebuilds_nothing(tree: Path) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert planned(tree) == set()


def test_a_fresh_clone_with_results_copied_in_rebuilds_nothing_and_sees_later_edits(tree: Path, tmp_path: Path) -> None:
    clone = copied_in(tree, tmp_path / "clone")
    assert planned(clone) == set()
    EXACTLY["the phi function"][0](clone)
    assert planned(clone) == EXACTLY["the phi function"][1]


def test_what_an_edit_made_stale_is_made_once_and_then_all_is_fresh_also_when_the_edit_is_taken_back(
    tree: Path,
) -> None:
    change, expected = EXACTLY["a label in a figure, and how another is smoothed"]
    before = {path: path.read_text() for path in (tree / "config").rglob("*.yaml")}
    for turn, is_edited in enumerate((True, False, True)):
        if is_edited:
            change(tree)
        else:
            for path, text in before.items():
                path.write_text(text)
        assert planned(tree) == expected, turn
        assert snakemake(tree, "--cores", "2").returncode == 0
        assert planned(tree) == set()


def test_what_an_edited_rule_made_stale_is_told_by_why_and_audit_and_fresh_once_it_is_made(tree: Path) -> None:
    change, expected = EXACTLY["what one training validates on"]
    change(tree)
    sentence = "reads validation: data/problems/validation.jsonl -> data/problems/train.jsonl"
    for made in (False, True):
        told = run(tree, sys.executable, "-m", "chord", "why").stdout
        assert (f"train runs/luffy/seed-1: {sentence}.\n" in told) is not made, told
        audited = json.loads(run(tree, sys.executable, "-m", "chord", "audit", "--json").stdout)
        stale = {one["path"]: one["found"] for one in audited["findings"] if one["status"] == "stale"}
        # The page is made by code that reads the table of steps, which the edit is in.
        assert stale.keys() <= {"results/demo/runs/luffy/seed-1/model", "results/demo/report.html"}
        assert stale.get("results/demo/runs/luffy/seed-1/model") == (None if made else sentence)
        assert planned(tree) == (set() if made else expected)
        assert snakemake(tree, "--cores", "2").returncode == 0


def test_commands_are_compared_where_they_differ_and_nowhere_else(tree: Path) -> None:
    edits((EVALUATE, "--seed {wildcards.seed}", "--seed 7"))(tree)
    told = run(tree, sys.executable, "-m", "chord", "why", "table1").stdout
    line = "generate runs/grpo/seed-1/eval/harder: command --seed: 1 -> 7."
    assert line in told.splitlines(), told
    assert told.count("command --") == len(IN_TABLE) * len(BENCHMARKS)


RUN = "runs/chord-phi/seed-1"
BY_HAND: dict[str, tuple[str, set[str]]] = {
    "a model": (f"{RUN}/model/file", made_again({"chord-phi"})),
    "metrics": (f"{RUN}/metrics.jsonl", made_again({"chord-phi"})),
    "answers": (
        f"{RUN}/eval/harder/answers.jsonl",
        answered("chord-phi", "harder") | scored("chord-phi", "harder") | TABLE | PAGE | CLAIMS,
    ),
    "scores": (f"{RUN}/eval/harder/scores.json", scored("chord-phi", "harder") | TABLE | PAGE | CLAIMS),
    "a table": ("table1.json", TABLE | PAGE),
    "a picture": ("figure4.svg", artefact("figure4") | PAGE),
    "the verdicts": ("claims.json", CLAIMS | PAGE),
    "the page": ("report.html", PAGE),
    "problems of a benchmark": (
        "data/benchmarks/harder.jsonl",
        benchmark_problems("harder") | HARDER,
    ),
    "a recipe": (f"{RUN}/run.json", described("chord-phi") | made_again({"chord-phi"})),
    "the base model": ("models/base/model/file", EVERYTHING_TRAINED),
}


@pytest.mark.parametrize("what", BY_HAND)
def test_an_output_edited_by_hand_is_made_again_with_all_below_and_the_edit_is_reported(tree: Path, what: str) -> None:
    file, expected = BY_HAND[what]
    append(f"results/demo/{file}", " ")(tree)
    found, told = planned_and_told(tree)
    assert found == expected
    name = file.removesuffix("/file").split("/")[-1]
    assert f"stale: output {name}: " in told and " by hand" in told, told


@pytest.mark.parametrize("what", [name for name in BY_HAND if name != "the base model"])
def test_an_output_deleted_by_hand_is_made_again_with_all_below(tree: Path, what: str) -> None:
    file, expected = BY_HAND[what]
    (tree / "results/demo" / file).unlink()
    assert planned(tree) == expected


@pytest.mark.parametrize("what", ["a model", "answers", "a recipe"])
def test_another_file_of_the_same_size_and_time_put_over_an_output_is_found(tree: Path, what: str) -> None:
    file, expected = BY_HAND[what]
    output, other = tree / "results/demo" / file, tree / "other"
    assert planned(tree) == set()
    shutil.copy2(output, other)
    other.write_bytes(output.read_bytes().replace(b"s", b"z"))
    os.utime(other, ns=(output.stat().st_atime_ns, output.stat().st_mtime_ns))
    other.replace(output)
    assert planned(tree) == expected


SHAPES: dict[str, Callable[[dict], object]] = {
    "a list for a mapping": lambda manifest: manifest | {"inputs": []},
    "a number for text": lambda manifest: manifest | {"outputs": {"model": {"path": 3}}},
    "nothing for a part": lambda manifest: manifest | {"code": None, "installed": {}},
    "a key less": lambda manifest: {key: value for key, value in manifest.items() if key != "step"},
    "a list": lambda manifest: [manifest],
}


def test_a_manifest_of_another_shape_is_named_and_its_job_runs_again(tree: Path) -> None:
    arms = dict(zip(["chord-phi", "luffy", "sasr", "mu-0.1", "mu-0.5"], SHAPES.values(), strict=True))
    for arm, shape in arms.items():
        path = tree / f"results/demo/runs/{arm}/seed-1/train.manifest.json"
        path.write_text(json.dumps(shape(json.loads(path.read_text()))))
    assert planned(tree) == made_again(set(arms))
    told = run(tree, sys.executable, "-m", "chord", "why")
    assert told.returncode == 0, told.stdout
    for arm in arms:
        assert f"train runs/{arm}/seed-1: manifest train.manifest.json: one that can be read -> " in told.stdout


def hours_ahead_and_behind(number: int) -> float:
    return time.time() + (7200 if number % 2 else -7200)


def set_times(results: Path, when: Callable[[int], float]) -> None:
    for number, path in enumerate(sorted(results.rglob("*"))):
        os.utime(path, (when(number), when(number)))


def test_times_of_files_decide_nothing_and_a_plan_changes_nothing(tree: Path) -> None:
    results = tree / "results"
    set_times(results, hours_ahead_and_behind)
    before = states(results)
    assert planned(tree) == set()
    change, expected = EXACTLY["a label in a figure, and how another is smoothed"]
    change(tree)
    assert planned(tree) == expected
    assert "plot figure2" in run(tree, sys.executable, "-m", "chord", "why").stdout
    assert "plot" in snakemake(tree, "--dry-run").stdout
    assert states(results) == before
    done = snakemake(tree, "--cores", "2")
    assert done.returncode == 0, done.stdout
    assert planned(tree) == set()


TIMES: dict[str, Callable[[int], float]] = {
    "two hours ahead": lambda number: time.time() + 7200,
    "all of 1970": lambda number: 0,
}


@pytest.mark.parametrize("when", TIMES)
def test_what_is_stale_is_made_whatever_the_times_of_what_it_reads(tree: Path, when: str) -> None:
    set_times(tree / "results", TIMES[when])
    change, expected = EXACTLY["a label in a figure, and how another is smoothed"]
    change(tree)
    assert planned(tree) == expected
    done = snakemake(tree, "--cores", "2")
    assert done.returncode == 0, done.stdout
    assert planned(tree) == set()


def states(folder: Path) -> dict[Path, tuple[int, ...]]:
    """What a change of a file, of its times or of what a folder holds would change."""
    stats = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for path, stat in stats.items()}


LINKED: dict[str, tuple[list[str], str]] = {
    "all folders above": (
        ["results", "results/demo", "results/demo/runs", "results/demo/data", f"results/demo/{RUN}"],
        "scores",
    ),
    "a model": ([f"results/demo/{RUN}/model"], "a model"),
    "scores": ([f"results/demo/{RUN}/eval/harder/scores.json"], "scores"),
}


@pytest.mark.parametrize("case", LINKED)
def test_results_may_lie_on_other_disks_and_be_linked_to(tree: Path, tmp_path: Path, case: str) -> None:
    places, what = LINKED[case]
    for number, place in enumerate(places):
        disk = tmp_path / f"disk-{number}"
        shutil.move(tree / place, disk)
        (tree / place).symlink_to(disk)
    assert planned(tree) == set()
    file, expected = BY_HAND[what]
    append(f"results/demo/{file}", " ")(tree)
    assert planned(tree) == expected
    done = snakemake(tree, "--cores", "2")
    assert done.returncode == 0, done.stdout
    assert planned(tree) == set()


def test_a_folder_of_results_that_is_a_link_to_nothing_is_refused_by_name(tree: Path) -> None:
    (tree / "results/demo/runs").rename(tree / "runs")
    (tree / "results/demo/runs").symlink_to("no disk")
    for told in (snakemake(tree, "--dry-run"), run(tree, sys.executable, "-m", "chord", "why")):
        assert told.returncode != 0
        assert "results/demo/runs: found a link to no disk, where there is nothing, expected a folder" in told.stdout
        assert "Traceback" not in told.stdout


def test_a_new_seed_adds_its_own_runs_and_leaves_the_others(tree: Path) -> None:
    replace(tree / "config/config.yaml", "seeds: [1]", "seeds: [1, 2]")
    plan = planned(tree)
    new = {file for file in plan if "/seed-2/" in file}
    assert plan - new == TABLE | PAGE | CLAIMS | artefact(*FIGURES)
    assert {file.split("/")[1] for file in new} == ALL


def test_a_new_arm_adds_its_own_runs_and_leaves_the_others(tree: Path) -> None:
    arm = "{init: base, mu: {schedule: constant, value: 0.3}, steps: 9, learning_rate: 1.0e-4}"
    append("config/arms.yaml", f"\nmu-new:\n  label: new\n  recipe: {arm}\n")(tree)
    replace(tree / "config/experiments/table1.yaml", "arms: [original,", "arms: [mu-new, original,")
    plan = planned(tree)
    new = {file for file in plan if file.startswith("runs/mu-new/")}
    assert plan - new == TABLE | PAGE | CLAIMS
    assert len(new) == 1 + 4 + 2 * len(BENCHMARKS)  # run.json; model, metrics, timing, curves; answers and scores


def test_why_says_one_sentence_a_job_with_old_and_new_values(tree: Path) -> None:
    shutil.rmtree(tree / ".snakemake")  # as in a fresh clone: Snakemake's own records are not needed
    replace(tree / "config/arms.yaml", "peak: 0.9,", "peak: 0.77,")
    replace(tree / "chord/findings/figures.py", "MARKED_POINTS = 11", "MARKED_POINTS = 9")
    (tree / "results/demo/runs/grpo/seed-1/eval/harder/scores.json").unlink()
    append("results/demo/runs/sft-light/seed-1/eval/harder/scores.json", " ")(tree)
    told = run(tree, sys.executable, "-m", "chord", "why", "table1", "figure4")
    assert told.returncode == 0, told.stdout
    lines = dict(line.split(": ", 1) for line in told.stdout.splitlines() if ": " in line)
    assert lines["describe_run runs/chord-mu/seed-1"] == "settings recipe.mu.peak: 0.9 -> 0.77."
    assert lines["train runs/chord-mu/seed-1"] == "reads what is made again: runs/chord-mu/seed-1/run.json."
    assert lines["generate runs/chord-mu/seed-1/eval/harder"].startswith("reads what is made again: runs/chord-mu/")
    assert lines["score runs/grpo/seed-1/eval/harder"] == "output scores.json: as made -> gone."
    assert lines["score runs/sft-light/seed-1/eval/harder"].startswith("output scores.json: ")
    assert lines["plot figure4"].startswith("code chord.findings.figures.MARKED_POINTS: ")
    cells = [f"{rule} runs/chord-mu/seed-1/eval/{name}" for rule in ("generate", "score") for name in BENCHMARKS]
    changed = ["describe_run runs/chord-mu/seed-1", "train runs/chord-mu/seed-1", *cells]
    scores = [f"score runs/{arm}/seed-1/eval/harder" for arm in ("grpo", "sft-light")]
    assert lines.keys() == {*changed, *scores, "tabulate table1", "plot figure4"}
    again = run(tree, sys.executable, "-m", "chord", "why", "table1", "figure4", "--json")
    assert len(json.loads(again.stdout)) == int(told.stdout.split()[-4])


def test_why_says_that_nothing_would_run_and_refuses_a_target_that_is_none(tree: Path) -> None:
    told = run(tree, sys.executable, "-m", "chord", "why")
    assert told.stdout.splitlines() == ["Nothing would run: all is as the present project makes it."]
    told = run(tree, sys.executable, "-m", "chord", "why", "tabel1")
    assert told.returncode == 2
    assert "tabel1" in told.stdout and "Traceback" not in told.stdout


def test_a_job_of_a_cluster_looks_nothing_over(tree: Path) -> None:
    """A job starts Snakemake anew, with --mode remote: it must not plan what its parent did not."""
    append("results/demo/table1.json", " ")(tree)
    command = [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--quiet", "all"]
    remote = subprocess.run([*command, "--mode", "remote"], cwd=tree, capture_output=True, text=True, check=False)
    assert "stale" not in remote.stdout + remote.stderr
