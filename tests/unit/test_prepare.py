import json
from itertools import combinations
from pathlib import Path

import pytest

from chord.config import Study, load
from chord.config.sets import problem_sets
from chord.config.slices import of_problems
from chord.provenance.manifest import read_manifest
from chord.records import Problem, read_lines
from tests.unit.small_study import ROOT, prepare, write_study


@pytest.fixture(scope="module")
def demo() -> Study:
    return load(ROOT, study="demo").study


@pytest.fixture(scope="module")
def prepared(demo: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the real demo study, made by the commands that its DAG runs."""
    data = tmp_path_factory.mktemp("a study") / "results" / "demo" / "data"
    done = prepare(Path("config/studies/demo.yaml"), data, *problem_sets(demo))
    assert done.returncode == 0, done.stderr
    return data


def files_of(demo: Study, data: Path) -> dict[str, list[Problem]]:
    names = [data / "problems" / f"{name}.jsonl" for name in ("train", "validation", "expert", "base")]
    names += [data / "benchmarks" / f"{name}.jsonl" for name in demo.benchmarks]
    return {str(file.relative_to(data)): read_lines(file, Problem) for file in names}


def test_no_prompt_of_the_demo_study_is_in_two_of_its_files(demo: Study, prepared: Path) -> None:
    prompts = {name: {problem.prompt for problem in problems} for name, problems in files_of(demo, prepared).items()}
    assert len(prompts) == 4 + len(demo.benchmarks)
    for (one, first), (other, second) in combinations(prompts.items(), 2):
        assert not first & second, (one, other)


def test_only_the_base_corpus_repeats_a_prompt_and_every_file_has_its_size(demo: Study, prepared: Path) -> None:
    files = files_of(demo, prepared)
    assert demo.base_corpus
    sizes = {f"problems/{name}.jsonl": getattr(demo.data, name).size for name in ("train", "validation", "expert")}
    sizes |= {f"benchmarks/{name}.jsonl": benchmark.problems.size for name, benchmark in demo.benchmarks.items()}
    assert {name: len({p.prompt for p in files[name]}) for name in sizes} == sizes
    assert {name: len({p.id for p in files[name]}) for name in sizes} == sizes
    assert {name: len(files[name]) for name in files} == sizes | {"problems/base.jsonl": demo.base_corpus.size}


def test_the_answers_of_the_demo_study_are_right(demo: Study, prepared: Path) -> None:
    for problems in files_of(demo, prepared).values():
        for problem in problems:
            if problem.task == "reversal":
                assert problem.answer == problem.prompt[:0:-1]  # all but the ~, backwards
            elif "+" in problem.prompt:
                assert int(problem.answer) == sum(map(int, problem.prompt.split("+")))
            else:
                left, right = problem.prompt.split("-")
                assert int(problem.answer) == int(left) - int(right)


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


def test_the_manifest_names_what_was_written_and_what_of_the_study_decided_it(demo: Study, prepared: Path) -> None:
    manifest = read_manifest(prepared / "benchmarks" / "harder.manifest.json")
    assert {name: Path(file.path).name for name, file in manifest.outputs.items()} == {
        "problems": "harder.jsonl",
        "counts": "harder.json",
    }
    assert manifest.inputs == {}
    assert (manifest.step, manifest.decided_by) == ("data", of_problems(demo, "benchmark:harder"))
    assert manifest.seeds == {"data": demo.data.seed}


def test_the_same_study_makes_the_same_bytes(tmp_path: Path) -> None:
    study = write_study(tmp_path / "project")
    for name in ("one", "other"):
        assert prepare(study, tmp_path / name, "base", "benchmark:harder").returncode == 0
    files = [f"{place}.{end}" for place in ("problems/base", "benchmarks/harder") for end in ("jsonl", "json")]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__train": {"task": "sum-1", "size": 99}}, "data.train asks for 99 problems of 'sum-1', found "),
        ({"tasks__sum-3__dataset": "chain_sums"}, "nearest: `chain_sum`"),
        ({"base_corpus__size": "many"}, "base_corpus.size"),
    ],
)
def test_a_study_that_cannot_be_filled_is_one_line_and_leaves_no_file(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    done = prepare(write_study(tmp_path / "project", **changes), tmp_path / "data", "train")
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.startswith("chord.prepare: config/studies/demo.yaml: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.json*"))


def test_a_set_that_the_study_does_not_have_is_one_line(tmp_path: Path) -> None:
    done = prepare(write_study(tmp_path / "project"), tmp_path / "data", "benchmark:hard")
    assert done.returncode == 2
    assert "demo.yaml: found no set 'benchmark:hard' in it, expected `benchmark:harder` (nearest)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_study_is_one_line(tmp_path: Path) -> None:
    done = prepare(tmp_path / "config" / "studies" / "none.yaml", tmp_path / "data", "train")
    assert done.returncode == 2
    assert "none.yaml: found no such file, expected the file of a study" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
