"""The verb writes one set, whole, disjoint from all others, the same each time, and counts what it dropped."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from chord.config.project import load
from chord.config.sets import problem_sets
from chord.config.study import Study
from chord.data.hub_rows import shared
from chord.provenance.manifest import read_manifest
from chord.records import Problem, read_lines, write_lines
from tests.unit.small_study import ROOT, TASKS, prepare, run, write_study


@pytest.fixture(scope="module")
def demo() -> Study:
    return load(ROOT, study="demo").study


@pytest.fixture(scope="module")
def prepared(demo: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the real demo study, made by the commands that its DAG runs."""
    data = tmp_path_factory.mktemp("a study") / "results" / "demo" / "data"
    prepare(Path("config/studies/demo.yaml"), data, *problem_sets(demo))
    return data


def files_of(demo: Study, data: Path) -> dict[str, list[Problem]]:
    names = [data / "problems" / f"{name}.jsonl" for name in ("train", "validation", "expert", "base")]
    names += [data / "benchmarks" / f"{name}.jsonl" for name in demo.benchmarks]
    return {str(file.relative_to(data)): read_lines(file, Problem) for file in names}


def test_every_file_has_its_size_and_no_prompt_is_in_two(demo: Study, prepared: Path) -> None:
    files = files_of(demo, prepared)
    assert demo.base_corpus
    sizes = {f"problems/{name}.jsonl": getattr(demo.data, name).size for name in ("train", "validation", "expert")}
    sizes |= {f"benchmarks/{name}.jsonl": benchmark.problems.size for name, benchmark in demo.benchmarks.items()}
    assert {name: len(files[name]) for name in files} == sizes | {"problems/base.jsonl": demo.base_corpus.size}
    prompts = {name: {problem.prompt for problem in problems} for name, problems in files.items()}
    for found in (prompts, {name: {problem.id for problem in problems} for name, problems in files.items()}):
        assert {name: len(found[name]) for name in sizes} == sizes
    for (one, first), (other, second) in combinations(prompts.items(), 2):
        assert not first & second, (one, other)


def test_the_counts_say_what_was_drawn_dropped_and_kept(demo: Study, prepared: Path) -> None:
    for file in files_of(demo, prepared):
        counts = json.loads((prepared / file).with_suffix(".json").read_text())
        assert counts["generator"].startswith("reasoning-gym ")
        assert counts["drawn"] == counts["kept"] + sum(counts["dropped"].values())
        assert counts["kept"] == sum(counts["kept_by_task"].values())
    train = json.loads((prepared / "problems" / "train.json").read_text())
    assert train["kept"] == train["distinct_prompts"] == demo.data.train.size
    assert train["kept_by_task"] == {"sum-3": demo.data.train.size}
    # Half of chain_sum subtracts: four of eight. A quarter of the other four is for training: one in eight is kept.
    assert 3 < train["dropped"]["an expression of another shape than tasks.keep"] / train["kept"] < 5
    assert 2.5 < train["dropped"]["prompt belongs to another purpose"] / train["kept"] < 3.5


def test_a_benchmark_of_a_generator_is_held_against_every_set_that_is_trained_on(demo: Study, prepared: Path) -> None:
    trained = {"train", "validation", "expert", "base", "base-untuned", "expert-second", "expert-large"}
    for name in demo.benchmarks:
        counts = json.loads((prepared / "benchmarks" / f"{name}.json").read_text())
        assert {one: found["same"] for one, found in counts["overlap"].items()} == dict.fromkeys(
            trained & {*problem_sets(demo)}, 0
        )
        assert read_manifest(prepared / "benchmarks" / f"{name}.manifest.json").extra["overlap"] == counts["overlap"]


def prepare_beside(study: Path, out: Path, name: str, *beside: object, code: int = 0) -> str:
    files = ("--problems", out / "made.jsonl", "--counts", out / "made.json", "--manifest", out / "made.manifest.json")
    return run("prepare", "--study", study, "--set", name, *files, *beside, code=code).stderr


def test_a_benchmark_made_of_the_problems_of_any_set_is_refused_unless_the_study_allows_it(tmp_path: Path) -> None:
    study, data = write_study(tmp_path / "project"), tmp_path / "data"
    prepare(study, data, "train")
    benchmark = data / "harder.jsonl"
    benchmark.write_bytes((data / "problems" / "train.jsonl").read_bytes())
    told = prepare_beside(study, tmp_path / "refused", "train", "--benchmarks", benchmark, code=2)
    assert "demo.yaml: train: found 40 of 40 problems in benchmark harder too (40 the same, 0 with" in told
    assert "expected none: no benchmark may be trained on" in told
    assert not (tmp_path / "refused").exists()
    allowed = write_study(tmp_path / "allowed", data__overlap="allowed")
    prepare_beside(allowed, tmp_path / "made", "train", "--benchmarks", benchmark)
    counted = {"harder": {"same": 40, "8 words in a row": 0}}
    assert json.loads((tmp_path / "made" / "made.json").read_text())["overlap"] == counted
    assert read_manifest(tmp_path / "made" / "made.manifest.json").extra["overlap"] == counted


def test_a_word_of_difference_or_white_space_hides_no_problem_and_a_generators_wording_is_none() -> None:
    def problem(prompt: str, **source: str) -> Problem:
        return Problem(prompt, "task", prompt, "1", source)

    asked = "Seven geese fly over nine lakes in three hours; how many lakes in one?"
    same = problem(f"Solve this.\n\n{asked}", repository="a/b", question=asked.replace(" fly", "\n fly"))
    near = problem("", repository="a/b", question=f"Long ago {asked.lower()}")
    other = problem("", repository="a/b", question="How many lakes are there?")
    benchmark = [problem(f"Answer: {asked}", repository="c/d", question=asked)]
    found = shared([same, near, other], benchmark, 8)
    assert (found.same, found.words, found.all) == ([same], [same, near], [same, near])
    packaged = [problem(asked, package="p")]
    assert shared([same], packaged, 8).same == [same]
    wording = "State the answer to the following arithmetic problem please: {}+1"
    made = [problem(wording.format(number), generator="g") for number in (1, 2)]
    assert shared(made[:1], made[1:], 8) == ([], [])
    assert shared(made[:1], made, 8) == (made[:1], [])


def test_a_benchmark_out_of_a_package_is_compared_with_the_sets_of_generators(tmp_path: Path) -> None:
    bfcl = {"source": "package", "dataset": "bfcl", "settings": {"categories": ["multiple"]}, "prompt": "{question}"}
    changes = {"tasks": TASKS | {"bfcl": bfcl}, "benchmarks__harder__grading": {"grader": "bfcl"}}
    study = write_study(tmp_path, benchmarks__harder__problems={"task": "bfcl", "size": 3}, **changes)
    told = prepare_beside(study, tmp_path / "alone", "benchmark:harder", code=2)
    assert "--trained: found no base, expert, train, validation, expected all of these sets" in told
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "expert", "base")}
    for file in files.values():
        file.write_text(write_lines([Problem("one", "sum-3", "1+2", "3", {"generator": "reasoning-gym"})]))
    beside = ("--trained", *files.values())
    prepare_beside(study, tmp_path / "apart", "benchmark:harder", *beside)
    counted = json.loads((tmp_path / "apart" / "made.json").read_text())["overlap"]
    assert {name: found["same"] for name, found in counted.items()} == dict.fromkeys(files, 0)
    asked = read_lines(tmp_path / "apart" / "made.jsonl", Problem)[1].prompt
    files["base"].write_text(write_lines([Problem("it", "sum-3", asked, "3", {"generator": "reasoning-gym"})]))
    told = prepare_beside(study, tmp_path / "shared", "benchmark:harder", *beside, code=2)
    assert "benchmark:harder: found 1 of 3 problems in set base too (1 the same, 0 with" in told


def test_the_same_study_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_study(tmp_path / "project")
    for seed, name in enumerate(("one", "other")):
        monkeypatch.setenv("PYTHONHASHSEED", str(seed))
        prepare(study, tmp_path / name, "base", "benchmark:harder")
    files = [f"{place}.{end}" for place in ("problems/base", "benchmarks/harder") for end in ("jsonl", "json")]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "wanted", "said"),
    [
        ({"data__train": {"task": "sum-1", "size": 99}}, "train", "data.train asks for 99 problems of 'sum-1', found "),
        ({}, "benchmark:hard", "found no set 'benchmark:hard' in it, expected `benchmark:harder` (nearest)"),
    ],
)
def test_a_set_that_cannot_be_filled_or_is_not_there_is_one_line_and_leaves_no_file(
    tmp_path: Path, changes: dict[str, object], wanted: str, said: str
) -> None:
    told = prepare(write_study(tmp_path / "project", **changes), tmp_path / "data", wanted, code=2).stderr
    assert said in told and told.startswith("chord prepare: config/studies/demo.yaml: ")
    assert not list(tmp_path.rglob("*.json*"))


def test_a_missing_study_is_one_line(tmp_path: Path) -> None:
    told = prepare(ROOT / "config" / "studies" / "dmo.yaml", tmp_path / "data", "train", code=2).stderr
    assert told.startswith("chord prepare: --study: found 'dmo', expected `demo` (nearest) or one of: demo, ")
    assert not (tmp_path / "data").exists()
