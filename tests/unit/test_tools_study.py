"""Study tools: BFCL's items become prompts that a model answers and the package's checker grades, each item once."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chord.config.project import load
from chord.config.sets import Lock, LockedFile, LockedRepository, wanted_dataset
from chord.config.study import Study
from chord.data.fetch import repository_folder
from chord.data.hub_rows import Beside, hub_set, lacking, published, read_rows
from chord.data.prepare import overlaps
from chord.errors import ConfigError, UserError
from chord.grading.tool_calls import BFCL_CATEGORIES as CATEGORIES
from chord.grading.tool_calls import bfcl_release
from chord.provenance.digest import contents, job_code
from chord.provenance.files import file_sha256
from chord.records import Answer, Problem, read_lines, write_lines
from chord.steps import Dag, of_problems
from tests.made_up_math import model_files
from tests.projects import ROOT, study_file
from tests.projects import replace as replace_text
from tests.tiny_model import tiny_model
from tests.unit.small_study import prepare, run
from tests.unit.test_bfcl import calls_of, reply

EACH = 3  # items of each category
SIZE = EACH * len(CATEGORIES)


def tools_study(root: Path, **changes: Any) -> Path:
    """The study with a few items; `data__seed=1` changes one value."""
    few: dict[str, Any] = {"benchmarks__bfcl__problems__size": SIZE, "execution__sampler_rows": SIZE}
    few |= {"execution__compute_dtype": "float32", "execution__cpu_threads": 1}
    return study_file(root, "tools", **(few | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the study's benchmark drawn by the verb."""
    root = tmp_path_factory.mktemp("tools")
    file = tools_study(root)
    replace_text(root / "config/benchmarks/bfcl.yaml", "max_gen_toks: 2048", "max_gen_toks: 4")
    (root / "benchmarks").mkdir()
    prepare(file, root, "benchmark:bfcl")
    return root


def problems(place: Path) -> list[Problem]:
    return read_lines(place / "benchmarks" / "bfcl.jsonl", Problem)


def score(place: Path, answers: Path, name: str) -> dict[str, Any]:
    verb(place, "score", "--answers", answers, "--scores", place / f"{name}.json")
    return json.loads((place / f"{name}.json").read_text(encoding="utf-8"))


def verb(place: Path, name: str, *more: object) -> None:
    given = ("--study", place / "config/studies/tools.yaml", "--benchmark", "bfcl")
    files = ("--problems", place / "benchmarks/bfcl.jsonl", "--manifest", place / f"{name}.manifest.json")
    run(name, *given, *files, *more, code=0)


# --- a real run at the smallest size -----------------------------------------------------------


def test_every_category_has_its_share_and_the_counts_name_the_release(place: Path) -> None:
    found = problems(place)
    assert Counter(one.source["category"] for one in found) == dict.fromkeys(CATEGORIES, EACH)
    assert Counter(one.source["kind"] for one in found) == {"live": SIZE // 2, "non-live": SIZE // 2}
    told = json.loads((place / "benchmarks/bfcl.json").read_text(encoding="utf-8"))
    assert told["package"] == bfcl_release()
    assert told["kept_by_category"] == dict.fromkeys(CATEGORIES, EACH)
    assert told["kept"] + sum(told["dropped"].values()) == 2351
    for one in found:
        item = json.loads(one.answer)
        names = [function["name"] for function in item["functions"]]
        assert all(json.dumps(name) in one.prompt for name in names)
        assert "<tool_call>" in one.prompt and "{question}" not in one.prompt


def test_scores_are_averages_by_instance_of_what_the_packages_checker_says(place: Path) -> None:
    """Right in one category wholly, in others in part: the mean is the share of items, whatever their category."""
    asked = problems(place)
    right = {"multiple": 3, "live_simple": 1, "parallel": 2}
    left, texts = Counter(right), {}
    for one in asked:
        calls = calls_of({"answer": one.answer}) if left[one.source["category"]] else [{"name": "no", "arguments": {}}]
        left[one.source["category"]] -= left[one.source["category"]] > 0
        texts[one.id] = reply(*calls)
    silent = next(one.id for one in asked if one.source["category"] == "live_parallel")
    texts[silent] = "I cannot."
    answers = [Answer("bfcl", one.id, 0, one.prompt, texts[one.id], "stop", 9, 1) for one in asked]
    (place / "by-hand.jsonl").write_text(write_lines(sorted(answers, key=lambda one: one.problem)), encoding="utf-8")

    scores = score(place, place / "by-hand.jsonl", "by-hand")
    assert (scores["mean"], scores["n_problems"]) == (6 / 24, 24)
    assert (scores["outcomes"]["right"], scores["outcomes"]["unparsable"]) == (6, 1)
    of = {one.id: one.source["category"] for one in asked}
    graded = Counter(of[row["id"]] for row in scores["problems"] if row["outcomes"] == ["right"])
    assert graded == right


@pytest.mark.slow
def test_a_model_answers_the_items_and_its_answers_are_scored(tmp_path: Path, place: Path) -> None:
    model = tiny_model(tmp_path / "model", max_position_embeddings=16384)
    known = set(load(ROOT, "demo").study.model.alphabet or "")
    readable = [  # the model reads few characters
        Problem(one.id, one.task, "".join(c for c in one.prompt if c in known)[:64], one.answer, one.source)
        for one in problems(place)
    ]
    root = shutil.copytree(place, tmp_path / "project")
    (root / "benchmarks/bfcl.jsonl").write_text(write_lines(readable), encoding="utf-8")
    verb(root, "generate", "--model", model, "--seed", 1, "--answers", root / "answers.jsonl")
    assert len(read_lines(root / "answers.jsonl", Answer)) == SIZE
    scores = score(root, root / "answers.jsonl", "scores")
    assert (scores["mean"], scores["n_problems"], scores["outcomes"]["right"]) == (0.0, SIZE, 0)


# --- training problems with and without the expert's answers to them ----------------------------


def made_row(number: int, right: bool) -> dict[str, Any]:
    """A row of the RL split in the columns that the study reads, with one answer of the expert."""
    calls = json.dumps([{"name": "add", "arguments": {"x": number, "y": 2}}])
    written = calls if right else json.dumps([{"name": "add", "arguments": {"x": number, "y": 3}}])
    return {
        "question": f"A miller wants the sum of {number} sacks and two more; which one is it?",
        "tools": json.dumps([{"name": "add", "parameters": {"x": {"type": "integer"}, "y": {"type": "integer"}}}]),
        "answer": calls,
        "generations": [f"<think>Add them.</think> <tool_call>{written}</tool_call>"],
        "verified": [True],
    }


def fetched_rows(place: Path, root: Path, *columns: str) -> tuple[Study, Lock, Beside, list[tuple[str, Path]]]:
    """The study on a fetched RL split of four rows, one with a wrong answer of the expert, that has these columns."""
    study = load(tools_study(root).parents[2], "tools").study
    wanted, commit = wanted_dataset(study, "toolace-rl"), "0123456789" * 4
    file = repository_folder(root, wanted.kind, wanted.name, commit) / "data" / "train-0.parquet"
    file.parent.mkdir(parents=True)
    rows = [{name: made_row(number, number != 2)[name] for name in columns} for number in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), file)
    pinned = {"data/train-0.parquet": LockedFile(size=file.stat().st_size, sha256=file_sha256(file))}
    one = LockedRepository(kind="dataset", name=wanted.name, revision="main", commit=commit, files=pinned)
    for name, content in model_files().items():
        (root / "model").mkdir(exist_ok=True)
        (root / "model" / name).write_bytes(content)
    beside = Beside([], [place / "benchmarks" / "bfcl.jsonl"], root / "model")
    return study, Lock(study="tools", repositories=(one,)), beside, [("data/train-0.parquet", file)]


ALL = ("question", "tools", "answer", "generations", "verified")


def test_rl_problems_need_no_answers_of_the_expert_and_only_aligned_traces_are_refused(place, tmp_path) -> None:
    study, lock, beside, files = fetched_rows(place, tmp_path, *ALL[:3])
    drawn = hub_set(study, "train", tmp_path, lock, beside)
    problems, told = drawn.problems, drawn.counts("train")
    assert [json.loads(one.answer)[0]["arguments"]["x"] for one in problems] == [0, 1, 2, 3]
    assert told["columns_lacking"] == ["generations", "verified"]
    assert all('"name": "add"' in one.prompt and "sacks" in one.prompt for one in problems)
    rows = read_rows(files, {name: name for name in ("question", "generations")})
    with pytest.raises(
        UserError, match=r"(?s)found no problem that was drawn with a trace.*luffy.*take those arms out"
    ):
        list(published(problems, rows, 1, "R1", tmp_path / "train.jsonl"))


def test_where_the_experts_answers_are_there_each_rl_problem_has_a_right_one(place, tmp_path) -> None:
    study, lock, beside, files = fetched_rows(place, tmp_path, *ALL)
    drawn = hub_set(study, "train", tmp_path, lock, beside)
    problems, told = drawn.problems, drawn.counts("train")
    assert [json.loads(one.answer)[0]["arguments"]["x"] for one in problems] == [0, 1, 3]  # the trace of 2 is wrong
    assert "columns_lacking" not in told
    traces = list(published(problems, read_rows(files, dict(zip(ALL, ALL, strict=True))), 1, "R1", tmp_path))
    assert [one.problem for one in traces] == [one.id for one in problems]


def test_a_benchmark_of_rows_that_are_trained_on_is_refused_where_no_filter_drops_them(place, tmp_path) -> None:
    study, lock, beside, _ = fetched_rows(place, tmp_path, *ALL)
    benchmark = tmp_path / "bfcl.jsonl"
    benchmark.write_text(write_lines(hub_set(study, "train", tmp_path, lock, beside).problems), encoding="utf-8")
    beside = replace(beside, benchmarks=[benchmark])
    with pytest.raises(ConfigError, match=r"found 0 that fit \(dropped: words in a row shared with a benchmark"):
        hub_set(study, "train", tmp_path, lock, beside)
    task = study.tasks["practised"]
    assert task.filters
    unfiltered = task.model_copy(update={"filters": task.filters.model_copy(update={"overlap_words": None})})
    loose = study.model_copy(update={"tasks": study.tasks | {"practised": unfiltered}})
    problems = hub_set(loose, "train", tmp_path, lock, beside).problems
    with pytest.raises(ConfigError) as refused:
        overlaps(loose, "train", problems, [benchmark])
    assert "train: found 3 of 3 problems in benchmark bfcl too (3 the same, 3 with 8 words in a row" in str(
        refused.value
    )
    assert "`data.overlap: allowed`; `overlap_words: 8` in its task's filters leaves them out" in str(refused.value)
    allowed = loose.model_copy(update={"data": loose.data.model_copy(update={"overlap": "allowed"})})
    assert overlaps(allowed, "train", problems, [benchmark]) == {"bfcl": {"same": 3, "8 words in a row": 3}}
    assert of_problems(allowed, "train", lock) != of_problems(loose, "train", lock)
    with pytest.raises(UserError, match="--benchmarks: found none, expected all of them: bfcl"):
        hub_set(loose, "train", tmp_path, lock, replace(beside, benchmarks=[]))


def test_the_expert_set_needs_them_and_their_column_is_named(place, tmp_path) -> None:
    study, lock, beside, files = fetched_rows(place, tmp_path, *ALL[:3])
    dataset = study.datasets["toolace-rl"].model_copy(update={"may_lack": ()})
    strict = study.model_copy(update={"datasets": study.datasets | {"toolace-rl": dataset}})
    with pytest.raises(UserError, match="found columns question, tools, answer, expected 'generations' among them"):
        hub_set(strict, "train", tmp_path, lock, beside)
    assert lacking(files, {"generations": "generations", "tools": "tools"}) == ["generations"]
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"question": "q", "verified": [true]}\n{"generations": ["t"]}\n', encoding="utf-8")
    assert lacking([("rows.jsonl", lines)], {"generations": "generations", "verified": "right"}) == ["verified"]


# --- what decides it ---------------------------------------------------------------------------


def test_the_slice_of_the_benchmark_has_what_its_items_depend_on(tmp_path: Path) -> None:
    def decided(name: str, **changes: Any) -> object:
        return of_problems(load(tools_study(tmp_path / name, **changes).parents[2], "tools").study, "benchmark:bfcl")

    before = decided("a")
    assert decided("b", rollouts__max_prompt_tokens=9, benchmarks__bfcl__label="other") == before
    changes: dict[str, Any] = {"data__seed": 1, "benchmarks__bfcl__problems__size": 8}
    changes |= {"tasks__bfcl__prompt": "{question}", "tasks__bfcl__settings": {"categories": ["multiple"]}}
    for key, value in changes.items():
        assert decided(key, **{key: value}) != before, key


def test_the_code_of_bfcl_decides_its_own_benchmark_alone() -> None:
    demo, tools = load(ROOT, "demo"), load(ROOT, "tools")
    drawing = {"chord.data.prepare.packaged", "chord.grading.tool_calls.bfcl_items"}
    ours = drawing | {"chord.grading.tool_calls.bfcl_calls"}
    for project in (demo, tools):
        reach = set()
        for name, one in Dag(project, ROOT).specs.items():
            if one.verb in ("chord prepare", "chord score", "chord train", "chord validate"):
                reach |= {name} if ours & contents(job_code(one.verb, one.uses).definitions).keys() else set()
        assert all("/bfcl." in name or "/eval/bfcl/" in name for name in reach)
        assert bool(reach) is (project is tools)
    drawn = job_code("chord prepare", of_problems(tools.study, "benchmark:bfcl").uses).definitions
    assert drawing <= contents(drawn).keys() and "chord.data.hub_rows.hub_set" not in contents(drawn)
