"""Study math in small, for real: fetched from a hub on this machine, drawn, demonstrated, trained on, asked, scored."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chord.records import Problem, Trace, read_lines
from tests import made_up_math, warm
from tests.conftest import made_once
from tests.hub_server import Hub, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the verbs of a whole study, each a process

ROOT = Path(__file__).parents[2]
SETS = ("expert", "validation", "train")
APART = {
    "expert": (),
    "validation": ("expert",),
    "train": ("expert", "validation"),
    "expert-large": ("validation", "train"),
}
BENCHMARKS = ("amc", "aime24", "aime25", "mmlu-pro", "math-500")


def run(folder: Path, verb: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The verb as a job would run it, with no token and no other hub.

    `fetch` alone runs without HF_HUB_OFFLINE; no other verb may read from a hub.
    """
    names = os.environ if verb == "fetch" else ("HF_TOKEN", "HF_ENDPOINT")
    dropped = {name for name in names if name.startswith("HF_")}
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | more
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "chord", verb, *map(str, arguments)]
    return warm.run(command, cwd=folder, env=environment, timeout=500)


def done(folder: Path, verb: str, *arguments: object, **more: str) -> None:
    told = run(folder, verb, *arguments, **more)
    assert told.returncode == 0, told.stderr


def place(kind: str, name: str) -> tuple[object, ...]:
    """Flags for the files that a data verb writes."""
    path = f"results/math/data/{kind}/{name}"
    return f"--{'traces' if kind == 'traces' else 'problems'}", f"{path}.jsonl", "--counts", f"{path}.json"


def draw(folder: Path, name: str) -> None:
    """One set, beside the files that the rule would name."""
    data = Path("results/math/data")
    apart = ("--apart-from", *(data / f"problems/{one}.jsonl" for one in APART[name])) if APART[name] else ()
    beside = ("--benchmarks", *(data / f"benchmarks/{one}.jsonl" for one in BENCHMARKS))
    written = (*place("problems", name), "--manifest", data / f"problems/{name}.manifest.json")
    tokenizer = ("--tokenizer", "results/math/models/base/model")
    done(folder, "prepare", "--study", "config/studies/math.yaml", "--set", name, *written, *apart, *beside, *tokenizer)


def build(folder: Path) -> None:
    """The project after all data jobs."""
    made_up_math.write_study(folder)
    study = ("--study", "config/studies/math.yaml")
    with serving(Hub()) as hub:
        made_up_math.publish(hub)
        done(folder, "fetch", "--study", "math", "--mirror", hub.address)
    base = "results/math/models/base"
    for name in ("base", "base-weak"):
        place_of = f"results/math/models/{name}"
        written = ("--model", f"{place_of}/model", "--manifest", f"{place_of}/adopt.manifest.json")
        done(folder, "adopt", *study, *(("--of", name) if name != "base" else ()), *written)
    for name in BENCHMARKS:
        done(folder, "prepare", *study, "--set", f"benchmark:{name}", *place("benchmarks", name))
    for name in APART:
        draw(folder, name)
    for traces, solved in (("expert", "expert"), ("aligned", "train"), ("expert-large", "expert-large")):
        problems = f"results/math/data/problems/{solved}.jsonl"
        asked = ("--problems", problems, "--tokenizer", f"{base}/model")
        done(folder, "demonstrate", *study, "--traces-of", traces, *asked, *place("traces", traces))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "math in small", build)


def problems(folder: Path, name: str) -> list[Problem]:
    kind = "benchmarks" if name in BENCHMARKS else "problems"
    return read_lines(folder / f"results/math/data/{kind}/{name}.jsonl", Problem)


def counts(folder: Path, name: str) -> dict:
    return json.loads((folder / f"results/math/data/problems/{name}.json").read_text())


def test_the_sets_are_whole_and_no_two_share_a_question(drawn: Path) -> None:
    asked = {name: {one.source["question"] for one in problems(drawn, name)} for name in (*SETS, *BENCHMARKS)}
    assert {name: len(found) for name, found in asked.items()} == {
        "expert": 20,
        "validation": 4,
        "train": 40,
        **dict.fromkeys(BENCHMARKS, 4),
    }
    everything = [question for found in asked.values() for question in found]
    assert len(everything) == len(set(everything))


def test_a_larger_expert_set_begins_with_the_expert_set_and_takes_what_rl_left(drawn: Path) -> None:
    asked = {name: {one.source["question"] for one in problems(drawn, name)} for name in APART}
    assert len(asked["expert-large"]) == 50
    assert asked["expert"] < asked["expert-large"]
    assert not asked["expert-large"] & (asked["train"] | asked["validation"])
    traces = read_lines(drawn / "results/math/data/traces/expert-large.jsonl", Trace)
    assert {one.problem for one in traces} == {one.id for one in problems(drawn, "expert-large")}
    assert counts(drawn, "expert-large")["apart_from"] == ["train", "validation"]


def test_every_row_is_counted_once_by_what_dropped_it(drawn: Path) -> None:
    """300 rows by the rule of the generator, and one that repeats a benchmark's words."""
    told = counts(drawn, "expert")
    assert told["drawn"] == told["kept"] + sum(told["dropped"].values()) == 301
    assert told["dropped"] == {
        "an answer that is no integer (filters.answers)": 30,
        "a question with Chinese characters (filters.script)": 30,
        "words in a row shared with a benchmark (filters.overlap_words)": 1,
        "fits, but the set is full": 240 - 20,
    }
    # Of the 240 rows that fit, 30 have one right and one wrong trace, 30 two right and one wrong, 180 two right.
    assert told["generations"] == {"kept": 30 + 60 + 360, "not verified": 60} | dict.fromkeys(
        ("over filters.generation_tokens", "not right to the grader of the study"), 0
    )
    told = counts(drawn, "train")
    few = told["dropped"]["too few generations that are verified and fit (filters.generations)"]
    taken = sum(len(one.source["kept"]) == 1 for one in problems(drawn, "expert"))
    assert few == 30 - taken  # those with one right trace, but for those that the expert set has
    assert told["dropped"]["a question of another set"] == 24
    assert sum(told["dropped"].values()) + 40 == 301


def test_answers_and_prompts_are_those_of_the_rows(drawn: Path) -> None:
    for one in [*problems(drawn, "train"), *problems(drawn, "expert")]:
        second, first = (int(word) for word in one.source["question"].split() if word.isdigit())
        assert int(one.answer) == first * second
        assert one.prompt.endswith(one.source["question"]) and "\\boxed{}." in one.prompt
    assert {one.answer for one in problems(drawn, "amc")} == {"15", "28", "45", "66"}  # not 15.0
    options = problems(drawn, "mmlu-pro")[1]
    assert options.prompt.endswith("0. 2\n1. 3\n2. 4\n3. 5") and options.answer == "1"


def test_a_column_that_no_prompt_shows_divides_the_benchmark_into_its_categories(drawn: Path) -> None:
    from chord.findings.reading import divided

    found = divided(drawn / "results/math/data/benchmarks/mmlu-pro.jsonl", "category")
    assert {name: len(ids) for name, ids in found.items()} == {"law": 2, "physics": 2}
    assert not any("law" in one.prompt or "physics" in one.prompt for one in problems(drawn, "mmlu-pro"))


def test_traces_are_right_and_one_for_each_problem(drawn: Path) -> None:
    for traces, solved in (("expert", "expert"), ("aligned", "train")):
        answers = {one.id: one.answer for one in problems(drawn, solved)}
        found = read_lines(drawn / f"results/math/data/traces/{traces}.jsonl", Trace)
        assert Counter(one.problem for one in found) == Counter(answers.keys())
        for one in found:
            assert one.response.endswith(f"\\boxed{{{answers[one.problem]}}}.") and one.expert == "DeepSeek-R1"
            assert one.response.startswith("<think>\n")


def test_the_adopted_model_holds_no_code_and_is_what_was_fetched(drawn: Path) -> None:
    files = {path.name for path in (drawn / "results/math/models/base/model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
    assert "run.py" not in files


def test_another_model_is_adopted_by_its_name_and_no_other(drawn: Path) -> None:
    manifests = {
        name: json.loads((drawn / f"results/math/models/{name}/adopt.manifest.json").read_text())
        for name in ("base", "base-weak")
    }
    assert {name: one["decided_by"]["model"]["name"] for name, one in manifests.items()} == {
        "base": "made-up/model",
        "base-weak": "made-up/weak",
    }
    weights = [(drawn / f"results/math/models/{name}/model/model.safetensors").read_bytes() for name in manifests]
    assert weights[0] != weights[1]
    told = run(
        drawn, "adopt", "--study", "config/studies/math.yaml", "--of", "base-moe", "--model", "m", "--manifest", "n"
    )
    assert told.returncode == 2
    assert "found 'base-moe', which is no model of source `hub`" in told.stderr
    assert "expected one that was fetched: base, base-weak, base-untuned" in told.stderr


def test_the_same_seed_draws_the_same_and_a_smaller_set_is_within_a_larger_one(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    copy = shutil.copytree(drawn, tmp_path / "copy")
    before = problems(copy, "train")
    with monkeypatch.context() as other:
        other.setenv("PYTHONHASHSEED", "1")  # another order of sets
        draw(copy, "train")
    assert problems(copy, "train") == before
    file = copy / "config/studies/math.yaml"
    file.write_text(file.read_text().replace("size: 40", "size: 10"))
    draw(copy, "train")
    assert {one.id for one in problems(copy, "train")} < {one.id for one in before}


def test_an_altered_file_stops_the_job_that_reads_it(drawn: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(drawn, tmp_path / "copy")
    (file,) = copy.glob("hub/datasets/made-up/amc/*/data/*.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    told = run(
        copy, "prepare", "--study", "config/studies/math.yaml", "--set", "benchmark:amc", *place("benchmarks", "amc")
    )
    assert told.returncode == 2
    assert "the file was altered; run `chord fetch --study math`" in told.stderr


def test_chord_trains_on_it_and_its_model_is_asked_and_scored(drawn: Path, tmp_path: Path) -> None:
    from chord.config.load import load

    (tmp_path / "run.json").write_text(load(drawn, study="math").run("chord-mu", 1).model_dump_json())
    data = drawn / "results/math/data"
    inputs = {"run": tmp_path / "run.json", "start": drawn / "results/math/models/base/model"}
    inputs |= {"prompts": data / "problems/train.jsonl", "traces": data / "traces/expert.jsonl"}
    inputs |= {"solved": data / "problems/expert.jsonl", "validation": data / "problems/validation.jsonl"}
    names = {"model": "model", "metrics": "metrics.jsonl", "timing": "timing.jsonl", "state": "state"}
    outputs = {flag: tmp_path / name for flag, name in names.items()}
    outputs |= {"manifest": tmp_path / "train.manifest.json", "tensorboard": tmp_path / "tensorboard"}
    done(drawn, "train", *(part for flag, path in (inputs | outputs).items() for part in (f"--{flag}", path)))
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1:]
    assert [line["step"] for line in steps] == [1, 2] and steps[0]["mu"] == 0.9
    assert set(steps[0]["outcomes"]) >= {"right", "too_long", "unparsable"} and steps[0]["expert_tokens"] > 100
    study, answers = ("--study", "config/studies/math.yaml", "--benchmark", "amc"), tmp_path / "answers.jsonl"
    asked = ("--problems", data / "benchmarks/amc.jsonl")
    told = ("--seed", 1, "--answers", answers, "--manifest", tmp_path / "answers.manifest.json")
    done(drawn, "generate", *study, "--model", tmp_path / "model", *asked, *told)
    scores = ("--scores", tmp_path / "scores.json", "--manifest", tmp_path / "scores.manifest.json")
    done(drawn, "score", *study, "--answers", answers, *asked, *scores)
    assert json.loads((tmp_path / "scores.json").read_text())["n_problems"] == 4
