import json
from itertools import combinations
from pathlib import Path

import pytest

from chord.config import Study, load
from chord.records import Problem, read_lines
from tests.unit.small_study import ROOT, prepare, write_study


@pytest.fixture(scope="module")
def demo() -> Study:
    return load(ROOT, study="demo").study


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the real demo study, made by the command that its DAG runs."""
    data = tmp_path_factory.mktemp("a study") / "results" / "demo" / "data"
    done = prepare(Path("config/studies/demo.yaml"), data, "--manifest", data / "prepare.manifest.json")
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
    counts = json.loads((prepared / "prepare.json").read_text())
    assert counts["generator"].startswith("reasoning-gym ")
    for split in counts["splits"].values():
        assert split["drawn"] == split["kept"] + sum(split["dropped"].values())
    train = counts["splits"]["train"]
    assert train["kept"] == train["distinct_prompts"] == demo.data.train.size
    assert train["dropped"]["an expression of another shape than tasks.keep"] > 0.8 * train["kept"]  # half subtracts


def test_the_manifest_names_all_that_was_written(demo: Study, prepared: Path) -> None:
    manifest = json.loads((prepared / "prepare.manifest.json").read_text())
    assert set(manifest["outputs"]) == {
        *("train", "validation", "expert", "base", "counts"),
        *(f"benchmark {name}" for name in demo.benchmarks),
    }
    assert manifest["seeds"] == {"data": demo.data.seed}


def test_the_same_study_makes_the_same_bytes(tmp_path: Path) -> None:
    study = write_study(tmp_path / "project")
    for name in ("one", "other"):
        assert prepare(study, tmp_path / name).returncode == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.json*"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__train": {"task": "sum-1", "size": 101}}, "data.train asks for 101 problems of 'sum-1', found 100"),
        ({"tasks__sum-3__dataset": "chain_sums"}, "nearest: `chain_sum`"),
        ({"base_corpus__size": "many"}, "base_corpus.size"),
    ],
)
def test_a_study_that_cannot_be_filled_is_one_line_and_leaves_no_file(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    done = prepare(write_study(tmp_path / "project", **changes), tmp_path / "data")
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.startswith("chord.prepare: config/studies/demo.yaml: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_missing_study_is_one_line(tmp_path: Path) -> None:
    done = prepare(tmp_path / "config" / "studies" / "none.yaml", tmp_path / "data")
    assert done.returncode == 2
    assert "none.yaml: found no such file, expected the file of a study" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
