"""Study math in small, for real: fetched from a hub on this machine, drawn, demonstrated, trained on, asked, scored."""

import json
import os
import shutil
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
APART = {"expert": (), "validation": ("expert",), "train": ("expert", "validation")}
APART["expert-large"] = ("validation", "train")
BENCHMARKS = ("amc", "aime24", "aime25", "mmlu-pro", "math-500")


STUDY = ("--study", "math")
DATA, BASE = Path("results/math/data"), Path("results/math/models/base/model")


def done(folder: Path, verb: str, *arguments: object, code: int = 0) -> str:
    """The verb as a job would run it, with no token and no other hub; what it complains of.

    `fetch` alone runs without HF_HUB_OFFLINE; no other verb may read from a hub.
    """
    names = os.environ if verb == "fetch" else ("HF_TOKEN", "HF_ENDPOINT")
    dropped = {name for name in names if name.startswith("HF_")}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "chord", verb, *map(str, arguments)]
    told = warm.run(command, cwd=folder, env=environment, timeout=500)
    assert told.returncode == code, told.stderr
    return told.stderr


def place(kind: str, name: str) -> tuple[object, ...]:
    """Flags for the files that a data verb writes."""
    path = DATA / kind / name
    return f"--{'traces' if kind == 'traces' else 'problems'}", f"{path}.jsonl", "--counts", f"{path}.json"


def draw(folder: Path, name: str) -> None:
    """One set, beside the files that the rule would name."""
    apart = [DATA / f"problems/{one}.jsonl" for one in APART[name]]
    beside = ("--benchmarks", *(DATA / f"benchmarks/{one}.jsonl" for one in BENCHMARKS), "--tokenizer", BASE)
    written = (*place("problems", name), "--manifest", DATA / f"problems/{name}.manifest.json")
    done(folder, "prepare", *STUDY, "--set", name, *written, *(("--apart-from", *apart) if apart else ()), *beside)


def build(folder: Path) -> None:
    """The project after all data jobs."""
    made_up_math.write_study(folder)
    with serving(Hub()) as hub:
        made_up_math.publish(hub)
        done(folder, "fetch", "--study", "math", "--mirror", hub.address)
    for name, of in {"base": (), "base-weak": ("--of", "base-weak")}.items():
        model = f"results/math/models/{name}"
        done(folder, "adopt", *STUDY, *of, "--model", f"{model}/model", "--manifest", f"{model}/adopt.manifest.json")
    for name in BENCHMARKS:
        done(folder, "prepare", *STUDY, "--set", f"benchmark:{name}", *place("benchmarks", name))
    for name in APART:
        draw(folder, name)
    for traces, solved in {"expert": "expert", "aligned": "train", "expert-large": "expert-large"}.items():
        asked = ("--problems", DATA / f"problems/{solved}.jsonl", "--tokenizer", BASE)
        done(folder, "demonstrate", *STUDY, "--traces-of", traces, *asked, *place("traces", traces))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "math in small", build)


def problems(folder: Path, name: str) -> list[Problem]:
    kind = "benchmarks" if name in BENCHMARKS else "problems"
    return read_lines(folder / DATA / kind / f"{name}.jsonl", Problem)


def asked(folder: Path, name: str) -> set[str]:
    return {one.source["question"] for one in problems(folder, name)}


def counts(folder: Path, name: str) -> dict:
    return json.loads((folder / DATA / f"problems/{name}.json").read_text())


def test_the_sets_are_whole_and_no_two_share_a_question(drawn: Path) -> None:
    sizes = {"expert": 20, "validation": 4, "train": 40} | dict.fromkeys(BENCHMARKS, 4)
    assert {name: len(asked(drawn, name)) for name in sizes} == sizes
    assert len(set().union(*(asked(drawn, name) for name in sizes))) == sum(sizes.values())


def test_a_larger_expert_set_begins_with_the_expert_set_and_takes_what_rl_left(drawn: Path) -> None:
    large = asked(drawn, "expert-large")
    assert len(large) == 50 and asked(drawn, "expert") < large
    assert not large & (asked(drawn, "train") | asked(drawn, "validation"))
    traces = read_lines(drawn / DATA / "traces/expert-large.jsonl", Trace)
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

    found = divided(drawn / DATA / "benchmarks/mmlu-pro.jsonl", "category")
    assert {name: len(ids) for name, ids in found.items()} == {"law": 2, "physics": 2}
    assert not any("law" in one.prompt or "physics" in one.prompt for one in problems(drawn, "mmlu-pro"))


def test_traces_are_right_and_one_for_each_problem(drawn: Path) -> None:
    for traces, solved in (("expert", "expert"), ("aligned", "train")):
        answers = {one.id: one.answer for one in problems(drawn, solved)}
        found = read_lines(drawn / DATA / f"traces/{traces}.jsonl", Trace)
        assert Counter(one.problem for one in found) == Counter(answers.keys())
        for one in found:
            assert one.response.endswith(f"\\boxed{{{answers[one.problem]}}}.") and one.expert == "DeepSeek-R1"
            assert one.response.startswith("<think>\n")


def test_adopted_models_hold_no_code_and_are_those_that_are_named(drawn: Path) -> None:
    folders = {name: drawn / f"results/math/models/{name}" for name in ("base", "base-weak")}
    for folder in folders.values():
        files = {path.name for path in (folder / "model").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
        assert "run.py" not in files
    manifests = [json.loads((folder / "adopt.manifest.json").read_text()) for folder in folders.values()]
    assert [one["decided_by"]["model"]["name"] for one in manifests] == ["made-up/model", "made-up/weak"]
    assert len({(folder / "model/model.safetensors").read_bytes() for folder in folders.values()}) == 2
    told = done(drawn, "adopt", *STUDY, "--of", "base-moe", "--model", "m", "--manifest", "n", code=2)
    assert "found no model 'base-moe' of source hub or package" in told
    assert "expected one that is fetched (base, base-weak, base-untuned) or carried (there is none)" in told


def test_the_same_seed_draws_the_same_whatever_the_order_of_sets(drawn: Path, tmp_path: Path, monkeypatch) -> None:
    copy = shutil.copytree(drawn, tmp_path / "copy")
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    draw(copy, "train")
    assert problems(copy, "train") == problems(drawn, "train")


def test_an_altered_file_stops_the_job_that_reads_it(drawn: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(drawn, tmp_path / "copy")
    (file,) = copy.glob("hub/datasets/made-up/amc/*/data/*.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    told = done(copy, "prepare", *STUDY, "--set", "benchmark:amc", *place("benchmarks", "amc"), code=2)
    assert "the file was altered; run `chord fetch --study math`" in told


def test_chord_trains_on_it_and_its_model_is_asked_and_scored(drawn: Path, tmp_path: Path) -> None:
    from chord.config.project import load

    (tmp_path / "run.json").write_text(load(drawn, study="math").run("chord-mu", 1).model_dump_json())
    data = drawn / DATA
    flags = {"run": tmp_path / "run.json", "start": drawn / BASE}
    flags |= {"prompts": data / "problems/train.jsonl", "traces": data / "traces/expert.jsonl"}
    flags |= {"solved": data / "problems/expert.jsonl", "validation": data / "problems/validation.jsonl"}
    flags |= {name: tmp_path / f"{name}.jsonl" for name in ("metrics", "timing")}
    flags |= {name: tmp_path / name for name in ("model", "state", "manifest", "tensorboard")}
    done(drawn, "train", *(part for flag, path in flags.items() for part in (f"--{flag}", path)))
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1:]
    assert [line["step"] for line in steps] == [1, 2] and steps[0]["mu"] == 0.9
    assert set(steps[0]["outcomes"]) >= {"right", "too_long", "unparsable"} and steps[0]["expert_tokens"] > 100
    of, answers = ("--benchmark", "amc", "--problems", data / "benchmarks/amc.jsonl"), tmp_path / "answers.jsonl"
    told = ("--seed", 1, "--answers", answers, "--manifest", tmp_path / "answers.manifest.json")
    done(drawn, "generate", *STUDY, *of, "--model", tmp_path / "model", *told)
    scores = ("--scores", tmp_path / "scores.json", "--manifest", tmp_path / "scores.manifest.json")
    done(drawn, "score", *STUDY, *of, "--answers", answers, *scores)
    assert json.loads((tmp_path / "scores.json").read_text())["n_problems"] == 4
