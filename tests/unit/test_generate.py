"""Sampling answers to benchmarks: seeds, order, what is left ahead for later jobs, and a real model at a tiny size."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from chord.config.study import Study
from chord.errors import UserError
from chord.evaluation import generate
from chord.evaluation.lm_eval_models import PolicyModel
from chord.records import Answer, Problem, PromptError, Request, Sampled, read_lines, write_lines
from chord.settings import derive
from tests import warm
from tests.projects import ROOT, replace
from tests.tiny_model import DATED, TURN_END, TURNS, tiny_model, turn_ending_tokenizer

NAMES = ("in-distribution", "harder", "other-skill")


class Fake:
    """A sampler that answers with its request's seed as text, and counts how often it is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, float]] = []

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        for request in requests:
            if len(request.prompt_ids) > 20:
                raise PromptError(f"{request.id}: found a prompt of {len(request.prompt_ids)} tokens, expected 1 to 20")
        self.calls.append((len(requests), max_tokens, temperature))
        return [Sampled([*map(int, str(request.seed)), 99], [0.0] * 3, "stop") for request in requests]


class Letters:
    """Letters as tokens."""

    def encode(self, prompt: str) -> list[int]:
        return [ord(character) for character in prompt]

    def decode(self, sampled: Sampled) -> str:
        return "".join(map(str, sampled.ids[:-1]))

    def recorded(self, prompt: str) -> dict[str, Any]:
        return {"first_prompt": prompt}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    sampler = Fake()

    def load(folder: Path, study: Study, threads: int) -> tuple[PolicyModel, dict[str, Any]]:
        return PolicyModel(sampler, Letters()), {"device": "cpu"}  # type: ignore[arg-type]

    monkeypatch.setitem(generate.ANSWERERS._entries, "transformers", load)
    return sampler


class Place:
    """A folder with a model, problems and places for answers, and the config that belongs to it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.model, self.seed, self.patch = folder, folder / "model", 5, patch
        shutil.copytree(ROOT / "config", folder / "config")
        for one in (self.model, folder / "data"):
            one.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (self.model / name).write_text(name)
        for name in NAMES:
            problems = [Problem(f"{name}-{n}", "sum-3", f"{n}+{n}", str(2 * n), {}) for n in (3, 1, 2)]
            self.problems(name).write_text(write_lines(problems))

    def problems(self, name: str) -> Path:
        return self.root / "data" / f"{name}.jsonl"

    def answers(self, name: str) -> Path:
        return self.root / "eval" / name / "answers.jsonl"

    def left(self, name: str) -> list[str]:
        return sorted(path.name for path in self.answers(name).parent.glob("*"))

    def arguments(self, name: str, siblings: Sequence[str]) -> list[str]:
        ahead = [f"--ahead={other}={self.problems(other)}={self.answers(other)}" for other in siblings if other != name]
        given = {"study": "demo", "root": self.root, "benchmark": name, "model": self.model, "seed": self.seed}
        given |= {"problems": self.problems(name), "answers": self.answers(name)}
        given |= {"manifest": self.answers(name).with_suffix(".manifest.json")}
        return [*(f"--{key}={value}" for key, value in given.items()), *ahead]

    def run(self, name: str, *siblings: str) -> bytes:
        self.patch.setattr("sys.argv", ["chord generate", *self.arguments(name, siblings)])
        generate.main()
        return self.answers(name).read_bytes()

    def extra(self, name: str) -> dict[str, Any]:
        return json.loads(self.answers(name).with_suffix(".manifest.json").read_text())["extra"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path / "a place", monkeypatch)


def test_each_problem_is_answered_k_times_each_under_a_seed_of_its_own_in_whatever_order_they_stand(
    place: Place, fake: Fake
) -> None:
    before = place.run("harder")
    answers = read_lines(place.answers("harder"), Answer)
    assert [(a.problem, a.sample) for a in answers] == [(f"harder-{n}", k) for n in (1, 2, 3) for k in range(4)]
    for answer in answers:
        seed = derive(5, "evaluate", "harder", answer.problem, answer.sample)
        assert (answer.seed, answer.text, answer.response_tokens) == (seed, str(seed), len(str(seed)) + 1)
        assert answer.prompt == f"{answer.problem[-1]}+{answer.problem[-1]}"
    assert fake.calls == [(12, 96, 1.0)]  # all at once, as long and as warm as the benchmark says
    assert place.left("harder") == ["answers.jsonl", "answers.manifest.json"]
    lines = place.problems("harder").read_text().splitlines(keepends=True)
    place.problems("harder").write_text("".join(reversed(lines)))
    assert place.run("harder") == before


def test_answers_made_ahead_are_the_bytes_of_answers_made_directly(tmp_path: Path, fake: Fake, place: Place) -> None:
    apart, together = Place(tmp_path / "apart", place.patch), place
    direct = {name: apart.run(name) for name in NAMES}
    together.run("harder", *NAMES)
    assert together.left("other-skill") == ["answers.ahead.jsonl", "answers.ahead.key.json"]
    calls = len(fake.calls)
    assert {name: together.run(name, *NAMES) for name in ("in-distribution", "other-skill")} | {
        "harder": together.answers("harder").read_bytes()
    } == direct
    assert len(fake.calls) == calls == 6
    assert together.left("other-skill") == ["answers.jsonl", "answers.manifest.json"]
    made_by = together.extra("other-skill")["made_ahead_by"]
    assert (made_by["pid"], made_by["device"]) == (os.getpid(), "cpu")
    for told in ("key", "first_prompt"):
        assert together.extra("other-skill")[told] == apart.extra("other-skill")[told]


def change_problems(place: Place) -> None:
    place.problems("harder").write_text(write_lines([Problem("harder-1", "sum-3", "1+1", "2", {})]))


STUDY, TASK = "config/studies/demo.yaml", "config/benchmarks/harder.yaml"
CHANGES: dict[str, Callable[[Place], Any]] = {
    "model": lambda place: (place.model / "model.safetensors").write_text("other weights"),
    "tokenizer": lambda place: (place.model / "tokenizer.json").write_text("other tokens"),
    "seed": lambda place: setattr(place, "seed", 6),
    "problems": change_problems,
    "benchmark": lambda place: replace(place.root / TASK, "max_gen_toks: 96", "max_gen_toks: 95"),
    "code": lambda place: place.patch.setattr("chord.evaluation.generate.code_digest", lambda verb, uses: "another"),
    "precision": lambda place: replace(place.root / STUDY, "compute_dtype: float32", "compute_dtype: float64"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_answers_ahead_of_anything_that_decides_them_are_never_used(what: str, place: Place, fake: Fake) -> None:
    place.run("other-skill", "harder")
    CHANGES[what](place)
    place.run("harder")
    assert [calls[0] for calls in fake.calls] == [12, 12, 4 if what == "problems" else 12]
    assert "made_ahead_by" not in place.extra("harder")
    assert place.left("harder") == ["answers.jsonl", "answers.manifest.json"]


def test_grading_labels_and_comments_do_not_spoil_answers_ahead(place: Place, fake: Fake) -> None:
    place.run("other-skill", "harder")
    replace(place.root / STUDY, "reward: paper-math", "reward: binary")
    replace(place.root / STUDY, "label: four-digit sums", "label: sums of four digits")
    replace(place.root / "config/benchmarks/other-skill.yaml", "version: 1", "version: 2")
    replace(place.root / TASK, "max_gen_toks: 96   ", "max_gen_toks: 96 # another comment")
    place.run("harder")
    assert len(fake.calls) == 2 and "made_ahead_by" in place.extra("harder")


RESULT, NOTE = "answers.ahead.jsonl", "answers.ahead.key.json"


@pytest.mark.parametrize(
    ("name", "damaged"), [(RESULT, b"cut"), (NOTE, b'{"key": "'), (NOTE, b"[1, 2]\n"), (RESULT, None), (NOTE, None)]
)
def test_answers_ahead_that_are_not_whole_are_removed_and_made_afresh(
    name: str, damaged: bytes | None, place: Place, fake: Fake
) -> None:
    place.run("other-skill", "harder")
    folder = place.answers("harder").parent
    whole = (folder / RESULT).read_bytes()
    (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
    assert place.run("harder") == whole
    assert len(fake.calls) == 3
    assert place.left("harder") == ["answers.jsonl", "answers.manifest.json"]


def test_a_sibling_is_answered_ahead_where_its_answers_are_lost_or_out_of_date_and_only_then(
    place: Place, fake: Fake
) -> None:
    place.run("harder")
    place.run("other-skill", *NAMES)  # leaves in-distribution alone ahead
    assert len(fake.calls) == 3
    place.run("other-skill", *NAMES)
    assert len(fake.calls) == 4  # what lies ready is not made twice either
    assert place.left("harder") == ["answers.jsonl", "answers.manifest.json"]
    place.run("in-distribution")
    change_problems(place)
    place.answers("in-distribution").unlink()
    place.run("other-skill", *NAMES)
    assert RESULT in place.left("harder") and RESULT in place.left("in-distribution")


def test_a_sibling_that_cannot_be_answered_spoils_nothing(
    place: Place, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    place.problems("harder").write_text("")
    place.problems("in-distribution").write_text(write_lines([Problem("long", "sum-3", "1" * 21, "2", {})]))
    place.run("other-skill", *NAMES, "no-such")
    assert place.left("other-skill") == ["answers.jsonl", "answers.manifest.json"]
    assert not place.left("harder") and not place.left("in-distribution")
    err = capsys.readouterr().err
    reasons = {"harder": "empty file", "in-distribution": "a prompt of 21 tokens", "no-such": "no benchmark"}
    for name, why in reasons.items():
        assert f"{name} is left to its own job" in err and why in err


def test_a_prompt_that_does_not_fit_is_refused_with_the_file(place: Place, fake: Fake) -> None:
    place.problems("harder").write_text(write_lines([Problem("long", "sum-3", "1" * 21, "2", {})]))
    with pytest.raises(UserError) as error:
        place.run("harder")
    assert str(error.value).startswith(f"{place.problems('harder')}: long#0: found a prompt of 21 tokens")
    assert not place.left("harder")


def program(place: Place, name: str, *siblings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chord", "generate", *place.arguments(name, siblings)]
    return warm.run(command, cwd=ROOT, env=os.environ | environment)


def cut_the_weights(place: Place) -> None:
    weights = tiny_model(place.model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


SPOILT: dict[str, Callable[[Place], Any]] = {
    "data/harder.jsonl: found nothing there": lambda place: place.problems("harder").unlink(),
    "model: found no *.safetensors": lambda place: (place.model / "model.safetensors").unlink(),  # before any import
    "model: found no": lambda place: shutil.rmtree(place.model),
    "model: found a model that cannot be loaded": cut_the_weights,
}


@pytest.mark.parametrize("said", SPOILT)
def test_input_that_cannot_be_used_ends_in_one_line_and_no_output(said: str, place: Place) -> None:
    SPOILT[said](place)
    result = program(place, "harder")
    *before, last = result.stderr.splitlines()
    assert result.returncode == 2 and last.startswith(f"chord generate: {place.root / said}"), result.stderr
    assert "Traceback" not in result.stderr and (not before or "loaded" in said)
    assert not place.left("harder")


def test_a_sibling_named_in_another_form_is_refused_with_the_form(place: Place) -> None:
    command = [sys.executable, "-m", "chord", "generate", *place.arguments("harder", ()), "--ahead", "other-skill=x"]
    result = warm.run(command, cwd=ROOT)
    assert result.returncode == 2 and "expected NAME=PROBLEMS=ANSWERS" in result.stderr


def test_a_job_done_ahead_imports_nothing_heavy(place: Place, fake: Fake) -> None:
    place.run("other-skill", "harder")
    code = (
        "import sys; from chord.evaluation import generate; generate.main();"
        "sys.exit(sorted({'torch', 'lm_eval', 'datasets', 'transformers', 'numpy'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, *place.arguments("harder", ())]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "made_ahead_by" in place.extra("harder")


def test_a_real_model_answers_all_benchmarks_in_one_process_as_in_three_and_is_scored(
    tmp_path: Path, place: Place
) -> None:
    """Through transformers, lm-eval and the command line; nothing is left in the home or among temporary files."""
    apart = Place(tmp_path / "apart", place.patch)
    for each in (apart, place):
        tiny_model(each.model)
    elsewhere = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    for folder in ("home", "tmp"):
        (tmp_path / folder).mkdir()
    result = program(place, "harder", *NAMES, **elsewhere)
    assert result.returncode == 0, result.stderr
    for name in NAMES:
        assert apart.run(name) == place.run(name, *NAMES), name
        assert ("made_ahead_by" in place.extra(name)) == (name != "harder")
    scores = place.answers("harder").with_name("scores.json")
    given = {"study": "demo", "root": place.root, "benchmark": "harder", "answers": place.answers("harder")}
    given |= {"problems": place.problems("harder"), "scores": scores, "manifest": scores.with_suffix(".manifest.json")}
    command = [sys.executable, "-m", "chord", "score", *(f"--{key}={value}" for key, value in given.items())]
    result = warm.run(command, cwd=ROOT, env=os.environ | elsewhere)
    assert result.returncode == 0, result.stderr
    assert not any((tmp_path / "home").iterdir()) and not any((tmp_path / "tmp").iterdir())
    assert sum(json.loads(scores.read_text())["outcomes"].values()) == 12


@pytest.mark.parametrize("by", ["transformers", "vllm"])
def test_an_answer_ends_with_its_turn_and_the_manifest_shows_the_prompt_with_the_day_that_is_named(
    by: str, place: Place
) -> None:
    tiny_model(place.model, turn_ending_tokenizer(DATED + TURNS))
    replace(place.root / STUDY, "\nmodel:\n", "\nprompt_date: 26 Jul 2024\nmodel:\n")
    replace(place.root / STUDY, "  cpu_threads: 1\n", f"  cpu_threads: 1\n  answers: {by}\n")
    result = program(place, "harder")
    assert result.returncode == 0, result.stderr
    extra, answers = place.extra("harder"), read_lines(place.answers("harder"), Answer)
    assert extra["first_prompt"] == f"<system>Today Date: 26 Jul 2024{TURN_END}<user>3+3{TURN_END}\n<assistant>"
    assert extra["end_tokens"] == ["<end>", TURN_END]
    ended = [answer for answer in answers if answer.finish == "stop"]
    assert ended  # of 12 answers of up to 96 tokens, each of which is one of two in a hundred
    assert not any(end in answer.text for answer in answers for end in extra["end_tokens"])
