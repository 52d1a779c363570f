"""What `config/` may say: every mistake is told as file, key, what was found, what was expected; nothing is guessed."""

import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from chord.config.project import Run, load, project_of
from chord.config.reading import FUNCTION, FunctionName, read_yaml
from chord.config.study import Zero
from chord.errors import ConfigError
from chord.objective import MuDecay
from chord.settings import Raw
from tests.projects import edit_yaml, replace

ROOT = Path(__file__).resolve().parents[2]
CLAIMS, TOOLS, MATH = "claims.yaml", "studies/tools.yaml", "studies/math.yaml"
ARMS, DEMO, TABLE1, FIGURE2 = "arms.yaml", "studies/demo.yaml", "experiments/table1.yaml", "experiments/figure2.yaml"
SFT_LIGHT = "init: base\n    mu: {schedule: constant, value: 1.0}           # eq. 1"
CHOOSE = "choose: [sft-lr-low, sft-lr-mid, sft-lr-high]"
RL_ROWS = "source: hub\n    dataset: toolace-rl\n    filters: {answers: calls, generations: 1, overlap_words: 8}"

# By file: what stands there (<n> is any number, None the whole file), what is put in its place (after +: behind it),
# and what is said (after a colon or a comma: of that file).
MISTAKES = {
    CLAIMS: [
        ("dated: <n>", "dated: soon\nx: ", ": dated: found 'soon', expected a day of the calendar"),
        ("arm: grpo,", "arm: gppo,", ": grpo-above-original.rule.arm is 'gppo', expected `grpo` (nearest)"),
        ("against: [luffy, sasr]", "against: [luffy, sars]", "rule.against names 'sars', expected `sasr` (nearest)"),
        ("against: [luffy, sasr]", "against: [luffy, chord-phi]", "found chord-phi against luffy, chord-phi, expected"),
        ("columns: [AIME24]", "columns: [AIME-24]", "rule.columns names 'AIME-24', expected `AIME24` (nearest)"),
        ("compare: turn", "compare: turned", 'rule.compare is "turned", expected `turn` (nearest)'),
        ("  reward: {size", "  rewards: {size", ": smallest_effects has no 'reward', expected one for each measure"),
        ("  BFCL: {size", "  BFLC: {size", ": smallest_effects names 'BFLC', expected `BFCL` (nearest)"),
        ("size: 5,", "size: 0,", ": smallest_effects.right.size is 0, expected more than 0"),
        (
            "falls, and then rises above",
            "falls on {benchmark}, and rises above",
            "sentence has {benchmark}, but its rule",
        ),
        ("part: [0, 0.3]", "part: [0.3, 0]", "rule: part is [0.3, 0.0], expected where it begins and where it ends"),
        ("- id: grpo-above-original", "- id: medicine", ": found the id 'medicine' 2 times, expected once"),
        ("    sentence: A focal", "    studies: [dmeo]\n    sentence: A focal", "focal-collapses.studies names 'dmeo'"),
        ("needs: a reader's judgement of texts", "reason: x", "rule.needs is missing, expected a value"),
    ],
    ARMS: [
        ("peak: <n>", "peek: 0.9", ": chord-mu.recipe.mu.peak is missing, expected a value"),
        ("steps: budget.rl_steps", "steps: '100'", ': grpo.recipe.steps is "100", expected a whole number'),
        ("steps: budget.rl_steps", "steps: true", ": grpo.recipe.steps is true, expected a whole number"),
        ("    keep: last", "    keep: best", ": sft-light.recipe: found `keep: best` with mu constant at 1"),
        ("keep: every}", "keep: last}", "sft-best.choose names 'sft-lr-low', which keeps last, expected an arm"),
        ("value: 0.02}, steps", "value: 0.02}, keep: every, steps", "mu-0.02.recipe: found `keep: every` with a mu"),
        ("peak: <n>", "peak: 1.9", ": chord-mu.recipe.mu.peak is 1.9, expected at most 1"),
        ("value: 0.02", "value: -0.02", ": mu-0.02.recipe.mu.value is -0.02, expected at least 0"),
        ("schedule: decay", "schedule: decai", 'chord-mu.recipe.mu.schedule is "decai", expected `decay` (nearest)'),
        ("schedule: decay, ", "", "chord-mu.recipe.mu.schedule is missing, expected one of: constant, decay, adaptive"),
        ("weight: p(1-p)", "weight: p(1-q)", 'expert_tokens.weight is "p(1-q)", expected `p(1-p)` (nearest) or one of'),
        ("init: sft-best", "init: original", "sft-best+rl.recipe.init is 'original', expected one of: base, sft-light"),
        (CHOOSE, "choose: [original]", "sft-best.choose names 'original', expected one of: sft-light"),
        ("grpo:", "Grpo:", ": Grpo is a name that no arm may have"),
        ("grpo:", "base:", ": base is a name that no arm may have"),
        ("steps: budget.rl_steps", "", "grpo.recipe: found neither `steps` nor `epochs`, expected exactly one"),
        ("steps: budget.rl_steps", "epochs: 2.0", "grpo.recipe: found `epochs`, passes over the expert set, with a mu"),
        ("init: base", "+\n    method: luffy", "found `traces: expert`, expected `aligned`"),
        ("init: base", "+\n    method: sasr", "found method sasr with schedule constant, expected both"),
        (CHOOSE, "", ": sft-best: found none of `recipe`, `choose` and `same_as`, expected exactly one"),
        (CHOOSE, "choose: []", ": sft-best.choose is [], expected at least 1 of them"),
        ("init: sft-best", "++rl", "sft-best+rl.recipe.init starts from itself (sft-best+rl -> sft-best+rl)"),
        (SFT_LIGHT, SFT_LIGHT.replace("base", "sft-light+rl"), "(sft-light -> sft-light+rl -> sft-light), expected"),
        (CHOOSE, "choose: [sft-best+rl]", "sft-best.choose starts from itself (sft-best -> sft-best+rl -> sft-best)"),
        ("\ngrpo:", "\noriginal:", "column 1: found the key 'original' a second time, expected each key once"),
        ("steps: budget.rl_steps", "steps: budget.rl_step", "budget has no 'rl_step', expected `rl_steps` (nearest)"),
        ("decay_steps: budget.mu_decay_steps", "decay_steps: 400", "demo.yaml: budget.rl_steps: found a warm-up of 0"),
        (None, "", ": found nothing, expected a mapping of keys to values"),
        (None, "- a\n", ": found a list, expected a mapping of keys to values"),
        (None, "a: [", ", line 1, column 5: found text that is not YAML (expected the node content"),
        (None, "grpo:", ": grpo is nothing, expected a mapping of keys to values"),
    ],
    DEMO: [
        ("  rl_steps: <n>", "  rl_steps: ten", ': budget.rl_steps is "ten", expected a number'),
        ("min_terms: <n>", "min_terms: {a: 2}", 'tasks.sum-1.settings.min_terms is {"a": 2}, expected a number or tex'),
        ("deterministic: true", "deterministic: yes", 'execution.deterministic is "yes", expected true or false'),
        ("seeds: [<n>,", "seeds: [1:30,", ': seeds.0 is "1:30", expected a whole number'),
        ("  deterministic: true", "+\n  sampler: vlm", 'execution.sampler is "vlm", expected `vllm` (nearest) or one'),
        ("  deterministic: true", "+\n  vllm: {}", "execution: found `vllm` with sampler transformers, expected `samp"),
        ("  deterministic: true", "+\n  sampler: vllm\n  vllm: {replicas: 2}", "execution.vllm: found `address` or `r"),
        ("  deterministic: true", "+\n  sampler: vllm\n  vllm: {placement: server, sleep: true}", "found `sleep: true"),
        ("deterministic: true", "+\n  zero: {offload: optimiser}", "execution.zero: found offload optimiser with stag"),
        ("compute_dtype: float32", "compute_dtype: float64\n  zero: {stage: 2}", "execution: found zero.stage above 0"),
        ("per_prompt: <n>", "per_prompt: 1", ": rollouts.per_prompt is 1, expected at least 2: the rollouts of one"),
        ("temperature: <n>", "temperature: 0.0", "rollouts.temperature is 0.0, expected at least 0.01"),
        ("share: <n>", "share: 0.99", "base_corpus: found shares of `parts` that add up to"),
        ("seeds: [<n>,", "seeds: [] # [", ": seeds is [], expected at least one and no repeats"),
        ("seeds: [<n>,", "seeds: [2, 2] # [", ": seeds is [2, 2], expected at least one and no repeats"),
        ("validation: {every_steps: <n>, problems: <n>", "validation: {every_steps: 10, problems: 99999", "expected a"),
        ("name: demo\n", "name: dmo\n", ": name is 'dmo', expected 'demo', the name of the file"),
        ("task: sum-4, size", "task: sum-5, size", "benchmarks.harder.problems.task is 'sum-5', expected `sum-4`"),
        ("file: harder.yaml", "file: hard.yaml", "benchmarks.harder.file is 'hard.yaml', expected `harder.yaml` (near"),
        ('mark: "=", ', "", "grading: found no `mark` with grader marked-text"),
        ("source: random", "source: package", "model: found source package, expected `architecture` and `alphabet` wi"),
        ("  rl_steps: <n>\n", "", "asked for in config/arms.yaml: grpo.recipe.steps; config/arms.yaml: sft-light+rl.r"),
        ("hidden_size: <n>", "hidden_size: 130", "model.architecture: found hidden_size 130 with num_attention_heads"),
        ("num_key_value_heads: <n>", "num_key_value_heads: 3", "found num_key_value_heads 3 with num_attention_heads"),
        ("max_position_embeddings: <n>", "max_position_embeddings: 80", "expected together at most 80: model.archite"),
        ("max_position_embeddings: <n>", "max_position_embeddings: 110", "harder.yaml: generation_kwargs.max_gen_toks"),
        ('alphabet: "0', "+0", "found '0' in `alphabet` more than once or nothing"),
        ('mark: "="', 'mark: "#"', ': grading.mark has "#", expected characters of model.alphabet: others'),
        ('prompt: "{expression}"', 'prompt: "Q {expression}"', 'tasks.sum-1.prompt has " ", expected characters of mo'),
        ("{expression}", "{expressionx}", "tasks.sum-1.prompt has {expressionx} in braces, expected `expression`"),
        ("{expression}", "{expression", 'tasks.sum-1.prompt is "{expression", expected names in braces'),
        ("{expression}", "{expression!r}", "expected names alone in braces, without `:` and `!`"),
        ("{expression}", "1+1", 'tasks.sum-1.prompt is "1+1", expected a name in braces: else all problems have one'),
        ("dataset: chain_sum", "dataset: composite", "tasks.sum-1.dataset is 'composite', expected a dataset of reas"),
        ("keep: sums", "+, filters: {answers: integer}", "tasks.sum-1: found `filters` with source generator"),
        ("min_terms: <n>", "seed: 2", "tasks.sum-1.settings.seed is not a setting of chain_sum"),
        ("min_terms: <n>", "min_terms: two", 'tasks.sum-1.settings.min_terms is "two", expected a whole number'),
        ("min_terms: <n>", "min_terms: 0", "tasks.sum-1.settings.min_terms is 0, expected at least 1"),
        ("min_terms: <n>", "min_terms: 3", "tasks.sum-1.settings: found min_terms 3 above max_terms 2, expected at mo"),
        ("train: {task: sum-3, size: <n>", "train: {task: sum-1, size: 99", "data.train asks for 99 problems of 'sum-"),
        ("task: sum-4, size: <n>", "task: sum-1, size: 50", "benchmarks.harder.problems asks for 50 problems of 'sum-"),
        ("sft_epochs: <n>", "sft_epochs: .inf", ": budget.sft_epochs is Infinity, expected a number"),
        ("weak_rl_steps: <n>", "weak_rl_steps: 0.5", ": budget.weak_rl_steps is 0.5, expected a whole number; asked"),
        ("sasr_warmup_steps: <n>", "sasr_warmup_steps: 46", "found a warm-up of 46 steps in a training of 45"),
        ("learning_rate: <n>", "learning_rate: 3.0", "base_corpus.recipe.learning_rate is 3, expected at most 1"),
        ("weight_decay: <n>", "weight_decay: 20", ": optimiser.weight_decay is 20, expected at most 1"),
        ("data:\n  seed: <n>", "data:\n  seed: 99999999999999999999", "data.seed is 99999999999999999999, expected le"),
        ("paper_column: AMC", "+C", "benchmarks.in-distribution.paper_column is 'AMCC', expected `AMC` (n"),
        ("deterministic: true", "+\n  answers: vllm\n  answers_options: {max_modle_len: 9}", "execution.answers_optio"),
        ("name: demo\n", "+learning_rates: {grp: 0.1}\n", "learning_rates names 'grp', expected `grpo` (nearest)"),
        (
            "name: demo\n",
            "+learning_rates: {sft-best: 0.1}\n",
            "learning_rates names 'sft-best', expected `sft-best+rl`",
        ),
        ("name: demo\n", "+learning_rates: {grpo: 0}\n", "learning_rates.grpo is 0, expected"),
        ("deterministic: true", "+\n  sampler: vllm\n  vllm: {context_tokens: 50}", "execution.vllm.context_tokens is"),
    ],
    "config.yaml": [
        ("study: demo", "stuudy: demo", ": stuudy is not a key here, expected `study` (nearest)"),
        ("study: demo\n", "+seeds: 1\n", ": seeds is 1, expected a list"),
        ("study: demo", "study: dmeo", ': study is "dmeo", expected `demo` (nearest)'),
        ("table1", "tabel1", ": artefacts names 'tabel1', expected `table1` (nearest)"),
        ("study: demo\n", "+seeds: [4, 4]\n", ": seeds has '4' 2 times"),
    ],
    TABLE1: [
        ("kind: table", "+x", ': kind is "tablex", expected `table` (nearest)'),
        ("benchmarks: [AMC", "benchmarks: [hardr", "benchmarks names 'hardr', expected `harder` (nearest)"),
        ("original: {AMC", "orginal1: {AMC", ": paper.cells has a row 'orginal1', expected `original` (nearest)"),
        ("[original, ", "+original, ", ": arms has 'original' 2 times, expected once"),
        ("AMC: <n>", "AMC: many", ': paper.cells.original.AMC is "many", expected a number or'),
    ],
    FIGURE2: [
        ("metric: validation.accuracy", "metric: validation.acc", "expected `validation.accuracy` (nearest)"),
        ("[sft-lr-low", "[original", ": arms names 'original', expected arms that are trained"),
    ],
    TOOLS: [
        ("task: practised", "task: bfcl", ": data.train has a task of source package, expected it in benchmarks"),
        ("dataset: bfcl", "dataset: gorilla", ": tasks.bfcl: found dataset 'gorilla' with source package"),
        ("dataset: bfcl\n", "+    filters: {answers: calls}\n", "found `filters` or `keep` with source package"),
        ("dataset: toolace-rl\n", "+    keep: sums\n", "practised: found `settings` or `keep` with source hub"),
        (RL_ROWS, "dataset: lcm", "expected one source: else sets could share a prompt"),
        ("generations: 1 ", "generations: 0 ", "tasks.demonstrated.filters.generations is not given"),
        (", verified: verified}", "}", "toolace-rl: found `verified` in `may_lack` and not in `columns`"),
        (", grading: {grader: bfcl}", "", "benchmarks.bfcl has problems of source package and grader tool-call"),
        ("grader: tool-call", "grader: bfcl", "found grader bfcl, expected another: its answers are those of a benchm"),
        ("{source: hub, name: Qwen", "{source: random, name: Qwen", "found source random, expected `architecture`"),
        ("options: {dtype", "options: {dtpe", "second.expert.options.dtpe: found an option that vLLM 0.32"),
        ("keep: random", "keep: longest", 'second.expert.keep is "longest", expected one of: best, random'),
        ("keep: random", "+\n      prompt: Solve it.", "found expert.prompt 'Solve it.', expected a text"),
        ("size: 2351", "size: 2352", "found 2351 items, benchmarks.bfcl.problems.size asks for 2352"),
    ],
    MATH: [
        ("dataset: openr1", "dataset: openr", "tasks.demonstrated.dataset is 'openr', expected `openr1` (nearest)"),
        ("question: problem, answer: answer}", "question: problem}", ": datasets.aime24: found no `answer` in"),
        (", verified: correctness_math_verify", "", "has no `verified`, expected the columns of generations"),
        ("test.jsonl", "test.csv", ": datasets.aime25: found 'test.csv' in `files`"),
        ("repository: open-r1/", "repository: ", ": datasets.openr1.repository is "),
        ("generations: 1 ", "generations: 0 ", "found `generation_tokens` without `generations`"),
        ("categories: category", "categories: subject", ": benchmarks.mmlu-pro.categories is 'subject', expected "),
        ("source: published", "source: publish", ': expert.source is "publish", expected `published` (nearest)'),
        ("published, name: DeepSeek-R1", "scripted, name: a, style: terse", ": expert.source is scripted and the p"),
        ("name: Qwen/", "name: Qwen", ": model: found name 'QwenQwen2.5-7B-Instruct' with source hub"),
    ],
    "studies/small.yaml": [(None, "a: [", ", line 1, column 5: found text that is not YAML")],
    "planning.yaml": [
        ("arms: [grpo, chord-mu", "arms: [gppo, chord-mu", "unbuilt.table7.arms names 'gppo', expected `grpo` (n")
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return tmp_path


def refused(root: Path, **given: object) -> str:
    with pytest.raises(ConfigError) as error:
        load(root, **given)  # type: ignore[arg-type]
    return str(error.value)


CASES = [(file, *one) for file, some in MISTAKES.items() for one in some]


@pytest.mark.parametrize(("file", "old", "new", "said"), CASES, ids=range(len(CASES)))
def test_a_mistake_is_told(root: Path, file: str, old: str | None, new: str, said: str) -> None:
    if old is None:
        (root / "config" / file).write_text(new, encoding="utf-8")
    else:
        replace(root / "config" / file, old, f"{old}{new[1:]}" if new.startswith("+") else new)
    told = refused(root)
    assert (f"config/{file}{said}" if said.startswith((":", ",")) else said) in told
    assert all(line.startswith("config/") for line in told.splitlines())


def test_all_mistakes_of_all_files_are_told_at_once(root: Path) -> None:
    replace(root / "config" / ARMS, "peak: <n>", "peak: 2")
    replace(root / "config" / DEMO, "per_prompt: <n>", "per_prompt: 0")
    replace(root / "config" / FIGURE2, "x: ", "y: ")
    told = [line.split(":")[0].removeprefix("config/") for line in refused(root).splitlines()]
    assert told == [DEMO, ARMS, FIGURE2, FIGURE2]


def test_a_missing_file_and_one_that_is_not_text_are_told(root: Path) -> None:
    (root / "config" / ARMS).write_bytes(b"\xff\xfe")
    assert refused(root) == "config/arms.yaml: found bytes that are not UTF-8 text (at 0), expected a YAML file"
    (root / "config" / ARMS).unlink()
    assert refused(root) == "config/arms.yaml: found no such file, expected a YAML file"
    (root / "config" / ARMS).mkdir()
    assert refused(root) == "config/arms.yaml: found something unreadable (Is a directory), expected a YAML file"
    (root / "config" / ARMS).rmdir()
    os.mkfifo(root / "config" / ARMS)
    assert refused(root) == "config/arms.yaml: found something that is no file, expected a YAML file"


def test_a_job_asks_nothing_of_other_studies(root: Path) -> None:
    (root / "config" / "studies" / "tools.yaml").write_text("a: [", encoding="utf-8")
    (root / "config" / "benchmarks" / "amc.yaml").write_text("a: [", encoding="utf-8")
    (root / "config" / "planning.yaml").write_text("a: [", encoding="utf-8")
    assert len(refused(root).splitlines()) == 3
    assert load(root, others=False).study == load(ROOT).study
    assert project_of(Namespace(root=root, study="demo")).study == load(ROOT).study


def test_a_value_of_a_budget_is_told_once_however_many_arms_ask_for_it(root: Path) -> None:
    replace(root / "config" / DEMO, "  rl_steps: <n>", "  rl_steps: 0")
    assert refused(root) == (
        "config/studies/demo.yaml: budget.rl_steps is 0, expected at least 1;"
        " asked for in config/arms.yaml: grpo.recipe.steps"
    )


def test_a_larger_expert_set_is_counted_where_an_arm_reads_it(root: Path) -> None:
    replace(root / "config" / DEMO, "large: {problems: <n>", "large: {problems: 900000")
    load(root)
    assert refused(root, given={"artefacts": ["appendixd3"]}).startswith(
        "config/studies/demo.yaml: other_experts.large.problems asks for 900000 problems of 'sum-3', found 810000 of"
    )


def test_how_long_things_last_is_asked_of_arms_that_are_to_be_built(root: Path) -> None:
    replace(root / "config" / DEMO, "tune_both_warmup_steps: <n>", "tune_both_warmup_steps: 30")
    load(root)
    assert refused(root, given={"artefacts": ["everything"]}) == (
        "config/studies/demo.yaml: budget.tune_both_warmup_steps, budget.mu_decay_steps, budget.rl_steps:"
        " found a warm-up of 30 and a decay of 18 steps in a training of 45, expected together at most that;"
        " asked for in config/arms.yaml: tune-both.recipe"
    )


def test_no_table_or_figure_may_have_the_name_of_another_target(root: Path) -> None:
    for name in ("claims", "all"):
        shutil.copy(root / "config" / FIGURE2, root / f"config/experiments/{name}.yaml")
        assert f"experiments/{name}.yaml: found a file of this name, expected another" in refused(root)
        (root / f"config/experiments/{name}.yaml").unlink()


def test_an_arm_that_nothing_asks_for_may_need_what_the_study_lacks(root: Path) -> None:
    replace(root / "config" / DEMO, "per_prompt: <n>", "per_prompt: 1")
    assert load(root, given={"artefacts": ["figure2"]}).choice.artefacts == ("figure2",)  # SFT alone samples nothing


def test_everything_is_all_that_the_study_builds(root: Path) -> None:
    demo, math = (load(root, study=study, given={"artefacts": ["everything"]}) for study in ("demo", "math"))
    for project in (demo, math):
        assert set(project.choice.artefacts) == {name for name in project.artefacts if not project.why_not(name)}
    assert "table6" in demo.choice.artefacts and "table6" not in math.choice.artefacts


def test_a_study_gives_arms_the_learning_rates_that_a_search_found(root: Path) -> None:
    before = load(root).arms
    edit_yaml(root / "config/studies/demo.yaml", learning_rates={"grpo": 7e-4})
    after = load(root).arms
    assert {name for name in after if after[name] != before[name]} == {"grpo"}
    assert after["grpo"].recipe == before["grpo"].recipe.model_copy(update={"learning_rate": 7e-4})
    assert load(root).run("grpo", 1).recipe.learning_rate == 7e-4
    assert load(root, "small").arms["grpo"].recipe.learning_rate != 7e-4


def test_rl_after_sft_has_the_budget_of_a_mixture_in_the_table_of_equal_budgets(root: Path) -> None:
    for study in ("demo", "math", "tools", "small"):
        project = load(root, study)
        first, then, mixture = (project.run(arm, 1) for arm in ("sft-matched", "sft-matched+rl", "chord-phi"))
        assert then.recipe.init == "sft-matched" and not then.recipe.mixes_experts
        rows, seen = first.expert_rows_per_step, mixture.expert_rows_per_step
        assert rows and seen and rows * first.recipe.steps == seen * mixture.recipe.steps
        assert (then.rollouts, then.recipe.steps) == (mixture.rollouts, mixture.recipe.steps)


def test_values_given_for_one_command_replace_those_of_the_file() -> None:
    assert load(ROOT).seeds == load(ROOT).study.seeds
    assert load(ROOT, seeds=(7,)).seeds == (7,)
    assert load(ROOT, given={"seeds": ["4", "5"], "study": "demo"}).seeds == (4, 5)  # Snakemake gives texts


def test_run_json_is_read_back_whole_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    project, path = load(ROOT), tmp_path / "run.json"
    run, sft, rl = project.run("chord-phi", 3), project.run("sft-light", 1), project.run("grpo", 1)
    path.write_text(run.model_dump_json(indent=2))
    assert Run.read(path) == run
    raw = json.loads(run.model_dump_json())
    for content, said in (
        (json.dumps(raw)[:-40], "found text that is not JSON"),
        ("", "found an empty file, expected a whole run.json"),
        (json.dumps(raw | {"sead": 1}), "sead is not a key here, expected `seed` (nearest)"),
        (json.dumps(raw | {"seed": -1}), "seed is -1, expected at least 0"),
        ("[]", "found [], expected a mapping of keys to values"),
        (sft.model_copy(update={"grading": rl.grading}).model_dump_json(), "found a value under grading, expected no"),
        (rl.model_copy(update={"rollouts": None}).model_dump_json(), "found nothing under rollouts, expected a value"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError) as error:
            Run.read(path)
        assert str(error.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize("study", [path.stem for path in (ROOT / "config/studies").glob("*.yaml")])
def test_every_run_is_resolved_for_its_study_and_told_nothing_that_its_recipe_cannot_use(study: str) -> None:
    project, needs = load(ROOT, study), {}
    for name, recipe in ((name, arm.recipe) for name, arm in project.arms.items() if arm.recipe):
        run = project.run(name, 1)
        needs[name] = (recipe.needs_rollouts, recipe.needs_experts)
        told = {getattr(run, key) is not None for key in ("rollouts", "grading", "policy_loss")}
        assert (run.study, told) == (study, {recipe.needs_rollouts}), name
        assert (run.expert_rows_per_step is not None) == recipe.mixes_experts, name
    assert (needs["grpo"], needs["sft-light"], needs["chord-phi"]) == ((True, False), (False, True), (True, True))
    if project.study.base_corpus:
        start = project.run("base", 1)
        assert start.grading is None
        assert [*start.validation.planned(start.recipe.steps)] == [0, start.recipe.steps]  # nobody draws its curve
    mu = project.run("chord-mu", 3).recipe.mu
    assert isinstance(mu, MuDecay)
    assert (mu.decay_steps, mu.peak, mu.valley) == (project.study.budget["mu_decay_steps"], 0.9, 0.05)
    for unused in ("threads", "checkpoint", "max_prompt_tokens", "CHORD"):  # the last: no label
        assert unused not in project.run("chord-phi", 1).model_dump_json()


def test_a_run_is_told_of_zero_only_where_it_is_used():
    study = load(ROOT, "demo").study
    for zero, told in ((Zero(), False), (Zero(stage=2, offload="optimiser"), True)):
        execution = study.execution.model_copy(update={"zero": zero})
        project = load(ROOT, "demo").model_copy(update={"study": study.model_copy(update={"execution": execution})})
        text = project.run("chord-phi", 1).model_dump_json()
        assert ("zero" in text) is told
        assert Run.model_validate_json(text).execution.zero == zero


FILES = [path.relative_to(ROOT / "config").as_posix() for path in sorted((ROOT / "config").rglob("*.yaml"))]
ODD = ["text", "a\nb", "", "budget.rl_steps", 0, -1, 1e300, 10**40, 0.5, True, None, float("nan")]
ODD += [[], {}, [[1]], {"a": 1}]


def places(value: Raw, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every key and every item below a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*above, key)
        yield from places(one, (*above, key))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@drawn(st.data())
def test_whatever_becomes_of_a_file_it_is_refused_by_its_name_or_loads_twice_the_same(root: Path, data: Any) -> None:
    file = data.draw(st.sampled_from(FILES))
    path = root / "config" / file
    before = path.read_text(encoding="utf-8")
    raw = read_yaml(path, file, functions=True)
    *above, last = data.draw(st.sampled_from(list(places(raw))))
    around: Any = reduce(getitem, above, raw)
    if data.draw(st.booleans()):
        around[last] = data.draw(st.sampled_from(ODD))
    else:
        del around[last]
    path.write_text(yaml.dump(raw, Dumper=Functions, allow_unicode=True), encoding="utf-8")
    try:
        loaded = load(root)
    except ConfigError as error:
        assert all(line.startswith("config/") for line in str(error).splitlines())
    else:
        assert load(root) == loaded
    finally:
        path.write_text(before, encoding="utf-8")


class Functions(yaml.SafeDumper):
    """Writes the name of a function with its tag."""


Functions.add_representer(FunctionName, lambda dumper, data: dumper.represent_scalar(FUNCTION, str(data)))
