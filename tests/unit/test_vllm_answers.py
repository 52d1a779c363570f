"""Benchmarks answered through lm-eval's vLLM model: our prompts, our seeds, records as ever."""

from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.errors import ConfigError
from chord.evaluation.benchmarks import read_benchmark, read_problems
from chord.provenance.digest import job_code
from chord.provenance.manifest import read_manifest
from chord.records import Answer, read_lines
from chord.sampling.vllm_server import configured_ends_in
from chord.settings import derive
from chord.steps import how_answered
from tests.tiny_model import tiny_model
from tests.unit.small_study import prepare, run, write_study

NAME = "in-distribution"
CHANGES: dict[str, Any] = {f"benchmarks__{NAME}__problems": {"task": "sum-2", "size": 24}}
CHANGES |= {"grading": {"grader": "last-number", "reward": "binary"}}
VLLM: dict[str, Any] = {"execution__answers": "vllm", "execution__answers_options": {"max_model_len": 128}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with problems of a benchmark, and a model of random weights."""
    folder = tmp_path_factory.mktemp("answers")
    done = prepare(write_study(folder, **CHANGES), folder / "data", f"benchmark:{NAME}")
    assert done.returncode == 0, done.stderr
    tiny_model(folder / "model")
    return folder


def generate(place: Path, out: Path, **changes: Any) -> Any:
    study, answers = write_study(out / "project", **CHANGES | changes), out / "answers.jsonl"
    files = ("--problems", place / f"data/benchmarks/{NAME}.jsonl", "--model", place / "model", "--answers", answers)
    told = ("--manifest", answers.with_suffix(".manifest.json"), "--seed", 1)
    return run("generate", "--study", study, "--benchmark", NAME, *files, *told)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("options", {"max_modle_len": 1}, ".max_modle_len: found an option that vLLM 0.32"),
        ("options", {"tensor_parallel_size": 2}, ".tensor_parallel_size: found an option that is set elsewhere"),
        ("batch_invariant", True, ": found true, expected false on a CPU"),
    ],
)
def test_what_this_vllm_or_device_lacks_is_refused_by_name(key, value, said, place, tmp_path):
    if key == "batch_invariant" and pytest.importorskip("torch").cuda.is_available():
        pytest.skip("a CUDA device is here, which may have it")
    told = generate(place, tmp_path, **VLLM | {f"execution__answers_{key}": value})
    assert told.returncode == 2 and f"studies/demo.yaml: execution.answers_{key}{said}" in told.stderr
    assert not (tmp_path / "answers.jsonl").exists()


def test_options_without_vllm_are_refused_and_the_default_stands_in_no_slice(tmp_path):
    file = write_study(tmp_path, execution__answers_options={"dtype": "float32"})
    with pytest.raises(ConfigError, match="with answers transformers, expected vllm"):
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vllm_answers_every_sample_under_its_seed(place, tmp_path):
    done = generate(place, tmp_path, **VLLM)
    assert done.returncode == 0, done.stderr
    study = load(tmp_path / "project", study="demo").study
    benchmark = read_benchmark(tmp_path / "project", study, NAME)
    problems = [one.id for one in read_problems(place / f"data/benchmarks/{NAME}.jsonl")]
    answers = read_lines(tmp_path / "answers.jsonl", Answer)
    places = [(problem, sample) for problem in sorted(problems) for sample in range(benchmark.samples_per_problem)]
    assert [(one.problem, one.sample) for one in answers] == places
    for one in answers:
        assert one.seed == derive(1, "evaluate", NAME, one.problem, one.sample)
        assert 0 < one.response_tokens <= benchmark.max_response_tokens and "<end>" not in one.text
        assert one.finish == "stop" or one.response_tokens == benchmark.max_response_tokens
    assert {one.finish for one in answers} == {"stop", "length"}

    engine: Any = read_manifest(tmp_path / "answers.manifest.json").extra["engine"]
    assert (engine["name"], engine["batch_invariant"]) == ("vllm", False)
    assert engine["version"].startswith("0.32") and engine["settings"]["max_model_len"] == 128
    assert engine["dtype"] == engine["settings"]["dtype"] == study.execution.compute_dtype
