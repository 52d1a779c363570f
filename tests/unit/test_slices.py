"""Each edit of a study changes the slices of the files that it concerns, and where a file changes its slice does."""

from pathlib import Path
from typing import Any

import pytest

from chord.config.project import load
from chord.config.sets import answered, problem_sets, trace_sets
from chord.config.study import Grading, Study
from chord.data.demonstrate import measured_in, write
from chord.data.problems import draw
from chord.records import write_lines
from chord.steps import of_answers, of_problems, of_scores, of_traces
from tests.unit.small_study import PARTS, TASKS, write_study

SMALL = {
    "base_corpus__size": 200,
    "validation__problems": 20,
    "data__validation": {"task": "sum-3", "size": 20},
}
OTHERS: dict[str, Any] = {
    "other_models": {"untuned": {"base_corpus": {"parts": PARTS, "size": 100, "rows_per_step": 1, "recipe": None}}},
    "other_experts": {
        "second": {"expert": {"source": "scripted", "name": "another", "style": "worked"}},
        "large": {"problems": 40},
    },
}
PROBLEMS = {"train", "validation", "expert", "base", "in-distribution", "harder", "other-skill"}
TRACES = {"expert traces", "aligned traces", "base traces"}
ADDED = {"task": "sum-3", "style": "terse", "share": 0.4}, {"task": "sum-3", "style": "worked", "share": 0.2}
EDITS: dict[str, tuple[dict[str, object], set[str]]] = {
    "nothing": ({}, set()),
    "a title, a reward, temperatures, budgets, steps, memory": (
        {
            "title": "Another",
            "grading__reward": "binary",
            "rollouts__temperature": 0.5,
            "budget__rl_steps": 44,
            "base_corpus__rows_per_step": 7,
            "base_corpus__recipe__learning_rate": 0.5,
            "execution__micro_batch_tokens": 7,
            "benchmarks__harder__label": "sums",
            "validation__samples_per_problem": 3,
        },
        set(),
    ),
    "the order of the alphabet": ({"model__alphabet": "zyxwvutsrqponmlkjihgfedcba~;,:>=-+9876543210"}, set()),
    "the size of train": ({"data__train": {"task": "sum-3", "size": 41}}, {"train"}),
    "the size of expert": ({"data__expert": {"task": "sum-3", "size": 21}}, {"expert"}),
    "the task of a benchmark": ({"benchmarks__harder__problems": {"task": "sum-2", "size": 5}}, {"harder"}),
    "the size of a benchmark": ({"benchmarks__harder__problems": {"task": "sum-4", "size": 6}}, {"harder"}),
    "a benchmark of the same task before another": (
        {"benchmarks__harder__problems": {"task": "sum-3", "size": 5}},  # the keys of these files are sorted
        {"harder", "in-distribution"},
    ),
    "a task that a benchmark and the base corpus ask": ({"tasks__sum-4__settings__max_digits": 5}, {"harder", "base"}),
    "a task that only the base corpus asks": ({"tasks__sum-1__prompt": "{expression}="}, {"base"}),
    "another task": ({"tasks": TASKS | {"more": TASKS["sum-1"]}}, set()),
    "the seed": ({"data__seed": 7}, PROBLEMS | {"base traces"}),
    "the size of the corpus": ({"base_corpus__size": 210}, {"base", "base traces"}),
    "a style of the corpus": ({"base_corpus__parts": [PARTS[0] | {"style": "worked"}, *PARTS[1:]]}, {"base traces"}),
    "how the corpus divides a task": ({"base_corpus__parts": [*ADDED, *PARTS[1:3], *PARTS[4:]]}, {"base traces"}),
    "the style of the expert": ({"expert__style": "terse"}, {"expert traces", "aligned traces"}),
    "the name of the expert": ({"expert__name": "A solver"}, {"expert traces", "aligned traces"}),
    "the mark": ({"grading__mark": ":"}, TRACES),
    "the longest response": ({"rollouts__max_response_tokens": 48}, TRACES),
    "the longest prompt": ({"rollouts__max_prompt_tokens": 12}, PROBLEMS),
    "a letter less": ({"model__alphabet": "0123456789+-=>:,;~abcdefghijklmnopqrstuvwxy"}, PROBLEMS | TRACES),
}


def study_with(folder: Path, **changes: object) -> Study:
    return load(write_study(folder, **(SMALL | changes)).parents[2], study="demo").study


def slices(study: Study) -> dict[str, object]:
    found: dict[str, object] = {
        name.removeprefix("benchmark:"): of_problems(study, name) for name in problem_sets(study)
    }
    return found | {f"{name} traces": of_traces(study, name) for name in trace_sets(study)}


def files(study: Study) -> dict[str, str]:
    """What the data verbs would write, by the names of `slices`."""
    problems = {name: draw(study, name).problems for name in problem_sets(study)}
    tokens = measured_in(study, None)[0]
    traces = {
        f"{name} traces": write(name, study, problems[answered(study, name)], tokens).traces
        for name in trace_sets(study)
    }
    return {name.removeprefix("benchmark:"): write_lines(found) for name, found in (problems | traces).items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study_with(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_slices_of_what_it_concerns_and_where_they_stay_the_file_does(
    edit: str, small: Study, unedited: dict[str, str], tmp_path: Path
) -> None:
    changes, expected = EDITS[edit]
    study = study_with(tmp_path, **changes)
    before, after = slices(small), slices(study)
    assert before.keys() == after.keys() == PROBLEMS | TRACES
    differ = {name for name in before if before[name] != after[name]}
    assert differ == expected
    follow = {f"{name} traces" for name in trace_sets(study) if answered(study, name) in differ}
    made = files(study)
    assert {name for name in made if made[name] != unedited[name]} <= differ | follow


@pytest.fixture(scope="module")
def unedited(small: Study) -> dict[str, str]:
    return files(small)


@pytest.mark.parametrize(
    ("more", "decides"),
    [
        ({"task_alias": "Harder", "tag": ["a"], "group": "b", "group_alias": "c"}, False),
        ({"metadata": {"version": 1, "description": "sums", "note": 3}}, False),
        ({"metadata": {"version": 2}}, True),
        ({"description": "Answer this."}, True),
        ({"gen_prefix": "="}, True),
        ({"custom_dataset": "!function a.b", "metadata": {"version": 1, "length": 3}}, True),
    ],
)
def test_what_only_names_or_describes_a_task_decides_no_answer_and_no_score(
    small: Study, more: dict[str, Any], decides: bool
) -> None:
    task = {"task": "harder", "repeats": 4, "metadata": {"version": 1}}
    for slice_of in (lambda told: of_answers(small, "harder", told, 1), lambda told: of_scores(small, "harder", told)):
        assert (slice_of(task) != slice_of(task | more)) is decides
    custom = {"custom_dataset": "!function a.b", "metadata": {"version": 1, "length": 3}}
    assert of_scores(small, "harder", custom).decided_by["task"] == custom


def test_another_grader_wants_other_traces_and_the_same_problems(small: Study) -> None:
    math = small.model_copy(update={"grading": Grading(grader="math", reward=small.grading.reward)})
    words = small.model_copy(update={"grading": Grading(grader="last-number", reward=small.grading.reward)})
    for name in trace_sets(small):
        assert of_traces(math, name) != of_traces(words, name)
    for name in problem_sets(small):
        assert of_problems(math, name).decided_by == of_problems(small, name).decided_by


def test_what_a_chat_model_reads_is_not_limited_by_characters(small: Study) -> None:
    free = small.model_copy(update={"model": small.model.model_copy(update={"alphabet": None})})
    longer = free.model_copy(update={"rollouts": free.rollouts.model_copy(update={"max_prompt_tokens": 9})})
    assert of_problems(free, "train") == of_problems(longer, "train") != of_problems(small, "train")


def test_other_experts_and_corpora_change_no_slice_but_their_own(small: Study, tmp_path: Path) -> None:
    recipe = small.base_corpus.recipe.model_dump(mode="json") if small.base_corpus else None
    OTHERS["other_models"]["untuned"]["base_corpus"]["recipe"] = recipe
    with_others = slices(study_with(tmp_path / "a", **OTHERS))
    own = {"expert-large", "base-untuned", "expert-second traces", "expert-large traces", "base-untuned traces"}
    assert {name: one for name, one in with_others.items() if name not in own} == slices(small)
    assert with_others.keys() - slices(small).keys() == own
    larger = OTHERS["other_experts"] | {"large": {"problems": 41}}
    edited = slices(study_with(tmp_path / "b", **(OTHERS | {"other_experts": larger})))
    assert {name for name in edited if edited[name] != with_others[name]} == {"expert-large"}
    terse = OTHERS["other_experts"] | {
        "second": {"expert": {"source": "scripted", "name": "another", "style": "terse"}}
    }
    edited = slices(study_with(tmp_path / "c", **(OTHERS | {"other_experts": terse})))
    assert {name for name in edited if edited[name] != with_others[name]} == {"expert-second traces"}
