"""Benchmarks answered through lm-eval's vLLM model: our prompts and seeds, records as ever, scores as transformers'."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chord.config.load import load
from chord.errors import ConfigError
from chord.evaluation.benchmarks import read_benchmark, read_problems
from chord.provenance.digest import job_code
from chord.provenance.manifest import read_manifest
from chord.records import Answer, Problem, derive, read_lines
from chord.sampling.vllm_server import configured_ends_in
from chord.steps import how_answered
from tests.draws import may_agree
from tests.tiny_model import tiny_model
from tests.unit.small_study import prepare, run, write_study

NAMES = ("in-distribution", "harder")
PROBLEMS = 24
LESSONS = 150
SIZES: dict[str, Any] = {
    f"benchmarks__{name}__problems": {"task": "sum-2", "size": PROBLEMS // 2 if name == "harder" else PROBLEMS}
    for name in NAMES
}
CHANGES = SIZES | {"grading": {"grader": "last-number", "reward": "binary"}}
VLLM: dict[str, Any] = {"execution__answers": "vllm", "execution__answers_options": {"max_model_len": 128}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with problems of two benchmarks, and a model that was taught the first ones' answers, but not well."""
    folder = tmp_path_factory.mktemp("answers")
    done = prepare(write_study(folder, **CHANGES), folder / "data", *(f"benchmark:{name}" for name in NAMES))
    assert done.returncode == 0, done.stderr
    taught(tiny_model(folder / "model"), read_problems(folder / "data" / "benchmarks" / "in-distribution.jsonl"))
    return folder


def taught(folder: Path, problems: Sequence[Problem]) -> None:
    """The model in `folder` learns the answers until it gives, at temperature 1, some and not all of them.

    After every fourth problem it learns to write on without an end.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from chord.data.prompts import prompt_ids, response_ids

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    rows = [
        (prompt_ids(tokenizer, one.prompt), response_ids(tokenizer, one.answer if place % 4 else "-" * 99)[:90])
        for place, one in enumerate(problems)
    ]
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)  # (B, T)
    for row, (asked, answer) in enumerate(rows):
        ids[row, : len(asked) + len(answer)] = torch.tensor([*asked, *answer])
        labels[row, len(asked) : len(asked) + len(answer)] = torch.tensor(answer)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(LESSONS):
        model(input_ids=ids, labels=labels).loss.backward()
        adam.step()
        adam.zero_grad()
    model.save_pretrained(folder)


def generate(place: Path, out: Path, name: str, *more: str, **changes: Any) -> Any:
    study = write_study(out / "project", **CHANGES | changes)
    answers = out / name / "answers.jsonl"
    files = ("--problems", place / "data" / "benchmarks" / f"{name}.jsonl", "--model", place / "model")
    told = ("--answers", answers, "--manifest", answers.with_suffix(".manifest.json"), "--seed", 1)
    return run("generate", "--study", study, "--benchmark", name, *files, *told, *more)


def score(place: Path, out: Path, name: str) -> dict[str, Any]:
    folder = out / name
    files = ("--answers", folder / "answers.jsonl", "--problems", place / "data" / "benchmarks" / f"{name}.jsonl")
    wanted = ("--scores", folder / "scores.json", "--manifest", folder / "scores.manifest.json")
    study = out / "project" / "config" / "studies" / "demo.yaml"
    done = run("score", "--study", study, "--benchmark", name, *files, *wanted)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "scores.json").read_text())


def test_an_option_that_this_vllm_lacks_is_refused_by_name(place, tmp_path):
    wrong = VLLM | {"execution__answers_options": {"max_modle_len": 128}}
    told = generate(place, tmp_path, "harder", **wrong)
    assert told.returncode == 2
    assert "studies/demo.yaml: execution.answers_options.max_modle_len: found an option that vLLM 0.32" in told.stderr
    assert "(nearest: `max_model_len`)" in told.stderr
    assert not (tmp_path / "harder" / "answers.jsonl").exists()


def test_batch_invariance_is_refused_where_the_device_lacks_it(place, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here, which may have it")
    told = generate(place, tmp_path, "harder", **VLLM | {"execution__answers_batch_invariant": True})
    assert told.returncode == 2
    assert "execution.answers_batch_invariant: found true, expected false on a CPU" in told.stderr


def test_options_without_vllm_are_refused_and_the_default_stands_in_no_slice(tmp_path):
    file = write_study(tmp_path, execution__answers_options={"dtype": "float32"})
    with pytest.raises(ConfigError, match="with answers transformers, expected answers vllm"):
        load(file.parents[2], study="demo")
    plain = load(write_study(tmp_path, execution__answers="transformers").parents[2], study="demo").study.execution
    assert how_answered(plain).keys() == {"compute_dtype", "sampler_rows", "deterministic"}
    assert "answers" not in plain.model_dump()
    served = load(write_study(tmp_path, **VLLM).parents[2], study="demo").study.execution
    assert how_answered(served)["answers_options"] == {"max_model_len": 128}


def test_answers_depend_on_the_code_of_what_gives_them_alone():
    ours, vllms = (set(job_code("chord generate", {"answers": (by,)}).definitions) for by in ("transformers", "vllm"))
    assert [name for name in ours if "vllm" in name] == []
    assert {"chord.training.transformers_sampler", "chord.training.policy", "chord.evaluation.lm_eval_models"} <= ours
    assert [name for name in vllms if "transformers" in name or name.startswith("chord.training")] == []
    assert {"chord.evaluation.vllm_model", "chord.sampling.vllm_server", "chord.sampling.vllm_sampler"} <= vllms


def test_configured_end_tokens_are_those_of_the_settings_or_of_the_config_without_them(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    assert configured_ends_in(tmp_path) == 5
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    assert configured_ends_in(tmp_path) == [9, 7]
    (tmp_path / "generation_config.json").write_text("{}")
    assert configured_ends_in(tmp_path) is None


def test_more_than_one_device_is_refused_by_name(place, tmp_path):
    several = VLLM | {"execution__answers_options": {"tensor_parallel_size": 2}}
    told = generate(place, tmp_path, "harder", **several)
    assert told.returncode == 2
    assert (
        "answers_options.tensor_parallel_size: found an option that is set elsewhere, expected nothing" in told.stderr
    )


@pytest.mark.slow
@pytest.mark.numbers
@pytest.mark.timeout(1200)
def test_vllm_answers_every_sample_under_its_seed_ahead_too_and_scores_as_transformers_do(place, tmp_path):
    sibling = tmp_path / "vllm" / "harder" / "answers.jsonl"
    ahead = f"harder={place / 'data' / 'benchmarks' / 'harder.jsonl'}={sibling}"
    scores = {}
    for name, changes, more in (("vllm", VLLM, ("--ahead", ahead)), ("transformers", {}, ())):
        done = generate(place, tmp_path / name, "in-distribution", *more, **changes)
        assert done.returncode == 0, done.stderr
        scores[name] = score(place, tmp_path / name, "in-distribution")
    study = load(tmp_path / "vllm" / "project", study="demo").study
    benchmark = read_benchmark(tmp_path / "vllm" / "project", study, "in-distribution")
    problems = [one.id for one in read_problems(place / "data" / "benchmarks" / "in-distribution.jsonl")]
    answers = read_lines(tmp_path / "vllm" / "in-distribution" / "answers.jsonl", Answer)
    places = [(problem, sample) for problem in sorted(problems) for sample in range(benchmark.samples_per_problem)]
    assert [(one.problem, one.sample) for one in answers] == places
    for one in answers:
        assert one.seed == derive(1, "evaluate", "in-distribution", one.problem, one.sample)
        assert 0 < one.response_tokens <= benchmark.max_response_tokens and "<end>" not in one.text
        assert one.finish == ("length" if one.response_tokens == benchmark.max_response_tokens else "stop")
    assert {one.finish for one in answers} == {"stop", "length"}

    engine: Any = read_manifest(tmp_path / "vllm" / "in-distribution" / "answers.manifest.json").extra["engine"]
    assert (engine["name"], engine["batch_invariant"]) == ("vllm", False)
    assert engine["version"].startswith("0.32") and engine["settings"]["max_model_len"] == 128
    assert engine["dtype"] == engine["settings"]["dtype"] == study.execution.compute_dtype

    took = generate(place, tmp_path / "vllm", "harder", **VLLM)
    assert took.returncode == 0, took.stderr
    extra: Any = read_manifest(sibling.with_suffix(".manifest.json")).extra
    assert extra["made_ahead_by"]["engine"]["name"] == "vllm"
    assert (
        len(read_lines(sibling, Answer))
        == PROBLEMS // 2 * read_benchmark(tmp_path / "vllm" / "project", study, "harder").samples_per_problem
    )

    # Answer by answer: by `may_agree` no difference of 28 pairs or fewer, however large, is beyond chance.
    one, other = ([told == "right" for of in scores[name]["problems"] for told in of["outcomes"]] for name in scores)
    assert len(one) == PROBLEMS * benchmark.samples_per_problem
    assert 0.2 < scores["transformers"]["mean"] < 0.9
    assert may_agree(one, other)
