"""No prompt is in two sets whatever their sizes; no set changes another; the same seed draws the same."""

import hashlib
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chord.config.project import load
from chord.config.sets import of_seed, part_sizes, problem_sets, task_sizes
from chord.config.study import Benchmark, Split, Study, Task
from chord.data.demonstrate import divided, shuffled
from chord.data.problems import ELSEWHERE, OTHER_SHAPE, OUTSIDE, TOO_LONG, Draw, draw, owner, problem_id
from chord.errors import ConfigError
from chord.provenance.digest import job_code
from chord.records import Problem, write_lines
from chord.steps import of_problems, of_traces
from tests.unit.small_study import write_study

SHARED = ("validation",)  # by all training seeds, beside benchmarks
BENCHMARK = Benchmark(label="", problems=Split(task="sum-2", size=30), file="harder.yaml")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Study:
    file = write_study(tmp_path_factory.mktemp("project"))
    return load(file.parents[2], study="demo").study


@pytest.fixture(scope="module")
def crowded(demo: Study) -> Study:
    """All sets ask for sums of 8,100 pairs of two-digit terms; three benchmarks do."""
    splits = {name: Split(task="sum-2", size=50) for name in ("train", "validation", "expert")}
    parts = (demo.base_corpus.parts[0].model_copy(update={"task": "sum-2", "share": 1.0}),) if demo.base_corpus else ()
    return changed(
        demo,
        data=demo.data.model_copy(update=splits),
        base_corpus=demo.base_corpus and demo.base_corpus.model_copy(update={"size": 600, "parts": parts}),
        benchmarks=dict.fromkeys(("one", "two", "three"), BENCHMARK),
    )


def changed(study: Study, **fields: object) -> Study:
    return study.model_copy(update=fields)


def with_task(study: Study, **settings: object) -> Study:
    return changed(study, tasks=study.tasks | {"odd": Task.model_validate(settings)})


def asking(study: Study, name: str, size: int, task: str = "sum-2") -> Study:
    """The study with another size of one of its sets."""
    split = Split(task=task, size=size)
    if name == "base":
        assert study.base_corpus
        return changed(study, base_corpus=study.base_corpus.model_copy(update={"size": size}))
    if name in ("train", "validation", "expert"):
        return changed(study, data=study.data.model_copy(update={name: split}))
    one = {name.removeprefix("benchmark:"): BENCHMARK.model_copy(update={"problems": split})}
    return changed(study, benchmarks=study.benchmarks | one)


def training(study: Study, task: str, size: int) -> Draw:
    return draw(asking(study, "train", size, task), "train")


def texts(study: Study) -> dict[str, str]:
    """Each set as its file would read."""
    return {name: write_lines(draw(study, name).problems) for name in problem_sets(study)}


def test_equal_seeds_draw_equal_problems_and_another_seed_draws_others(demo: Study) -> None:
    first, again = training(demo, "sum-3", 50), training(demo, "sum-3", 50)
    assert first == again
    other = changed(demo, data=demo.data.model_copy(update={"seed": demo.data.seed + 1}))
    shared = {p.prompt for p in first.problems} & {p.prompt for p in training(other, "sum-3", 50).problems}
    assert len(shared) < 5  # 50 of 202,500 sums drawn twice


def test_with_data_by_seed_each_seed_draws_what_it_learns_from_and_all_share_what_they_are_asked(demo: Study) -> None:
    study = changed(demo, data=demo.data.model_copy(update={"by_seed": True}))
    for name in ("train", "expert", "base"):
        first, again, second = (draw(study, of_seed(study, name, seed)) for seed in (1, 1, 2))
        assert first == again != second
        assert len(first.problems) == len(second.problems) == len(draw(demo, name).problems)
        assert {owner(problem.prompt)[0] for problem in second.problems} == {name}
    common = [*SHARED, *(name for name in problem_sets(study) if name.startswith("benchmark:"))]
    assert [of_seed(study, name, 2) for name in common] == common
    assert of_problems(study, "expert/seed-1") != of_problems(study, "expert/seed-2")
    assert of_problems(study, "validation") == of_problems(demo, "validation")
    for wrong, said in (("expert", "expected 'expert/seed-N'"), ("validation/seed-1", "expected 'validation'")):
        with pytest.raises(ConfigError, match=f"found no set '{wrong}' in it, {said}"):
            of_problems(study, wrong)
    with pytest.raises(ConfigError, match="found no set 'expert/seed-1' in it, expected 'expert'"):
        of_traces(demo, "expert/seed-1")


def test_the_first_problems_of_a_set_do_not_depend_on_its_size(demo: Study) -> None:
    assert training(demo, "sum-3", 60).problems[:20] == training(demo, "sum-3", 20).problems


@pytest.mark.parametrize(("shape", "sign", "size"), [("sums", "+", 3), ("differences", "-", 2)])
def test_only_the_wanted_shape_is_kept_and_the_rest_counted(demo: Study, shape: str, sign: str, size: int) -> None:
    task = demo.tasks[f"sum-{size}"].model_copy(update={"keep": shape})
    found = training(changed(demo, tasks={"kept": task}), "kept", 100)
    for problem in found.problems:
        left, right = problem.prompt.split(sign)
        assert len(left) == len(right) == size
        assert int(left) + int(sign + right) == int(problem.answer)
    assert found.dropped[OTHER_SHAPE] > 50  # chain_sum adds as often as it subtracts
    assert found.counts("train")["drawn"] == 100 + sum(found.dropped.values())


def test_words_are_small_letters_and_their_answer_is_the_word_reversed(demo: Study) -> None:
    any_letter = changed(demo, model=demo.model.model_copy(update={"alphabet": None}))  # the list has names in capitals
    for problem in training(any_letter, "reversal", 300).problems:
        word = problem.prompt.removeprefix("~")
        assert word.islower() and word.isascii() and 3 <= len(word) <= 5
        assert problem.answer == "".join(reversed(word))


@given(st.text())
def test_the_first_digit_of_its_hash_says_which_purpose_may_ask_a_prompt(prompt: str) -> None:
    digits = hashlib.sha256(prompt.encode()).hexdigest()
    purposes = ["benchmark", "validation", *["train"] * 2, "expert", *["base"] * 3]  # one for two digits each
    assert owner(prompt)[0] == purposes[int(digits[0], 16) // 2]
    assert problem_id("sum-3", prompt).startswith(f"sum-3-{digits[0]}")


def test_each_benchmark_of_a_task_has_half_of_what_those_before_it_leave() -> None:
    # The share of benchmarks is the hashes that begin with the bits 000; the next bits count in ones: 0, 10, 110, ...
    found = set()
    for number in range(4000):
        bits = f"{int(hashlib.sha256(str(number).encode()).hexdigest(), 16):0256b}"
        ones = len(bits[3:]) - len(bits[3:].lstrip("1"))
        purpose, place = owner(str(number))
        assert (purpose == "benchmark", place) == ((True, ones) if bits.startswith("000") else (False, 0))
        found.add(place)
    assert found >= {0, 1, 2, 3, 4}


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 120), min_size=6, max_size=6))
def test_no_prompt_is_in_two_sets_whatever_their_sizes(crowded: Study, sizes: list[int]) -> None:
    names = [name for name in problem_sets(crowded) if name != "base"]
    study = crowded
    for name, size in zip(names, sizes, strict=True):
        study = asking(study, name, size)
    prompts = {name: [problem.prompt for problem in draw(study, name).problems] for name in problem_sets(study)}
    for (one, first), (other, second) in combinations(prompts.items(), 2):
        assert not set(first) & set(second), (one, other)
    for name, size in zip(names, sizes, strict=True):
        assert len(prompts[name]) == len(set(prompts[name])) == size


def test_the_size_of_one_set_changes_no_other_set(crowded: Study) -> None:
    before = texts(crowded)
    for name in before:
        after = texts(asking(crowded, name, 70))
        assert {key for key in before if before[key] != after[key]} == {name}


def test_a_benchmark_more_changes_no_other_set(crowded: Study) -> None:
    before = texts(crowded)
    more = BENCHMARK.model_copy(update={"problems": Split(task="sum-3", size=30)})
    for benchmarks in ({**crowded.benchmarks, "four": BENCHMARK}, {"three-digits": more, **crowded.benchmarks}):
        after = texts(changed(crowded, benchmarks=benchmarks))
        assert len(after) == len(before) + 1 and before.items() <= after.items()


def test_a_set_larger_than_its_share_of_a_task_is_refused_with_what_was_found(demo: Study) -> None:
    mine = sum(owner(f"{left}+{right}")[0] == "train" for left in range(10) for right in range(10))
    assert 15 < mine < 35  # a quarter of 100
    with pytest.raises(ConfigError) as refusal:
        training(demo, "sum-1", mine + 1)
    message = str(refusal.value)
    assert message.startswith(
        f"config/studies/demo.yaml: data.train asks for {mine + 1} problems of 'sum-1', found {mine} that fit"
    )
    assert "already in this set: " in message and f"{ELSEWHERE}: " in message


def test_a_set_that_the_study_does_not_have_is_refused(demo: Study) -> None:
    with pytest.raises(ConfigError, match=r"found no set 'benchmark:hard' in it, expected `benchmark:harder`"):
        draw(demo, "benchmark:hard")
    with pytest.raises(ConfigError, match="found no set 'base'"):
        draw(changed(demo, base_corpus=None), "base")


def test_the_base_corpus_repeats_small_tasks_and_asks_its_own_prompts_only(demo: Study) -> None:
    assert demo.base_corpus
    problems = draw(asking(demo, "base", 4000), "base").problems
    assert {owner(problem.prompt) for problem in problems} == {("base", 0)}
    ones = [p.prompt for p in problems if p.task == "sum-1"]
    assert len(ones) == 400  # a share of 0.1
    mine = {f"{left}+{right}" for left in range(10) for right in range(10)}
    assert set(ones) == {prompt for prompt in mine if owner(prompt)[0] == "base"}


def test_drawing_and_demonstrating_reach_no_grader(demo: Study) -> None:
    modules = ("graders", "math_checker", "math_reading", "math_values", "tool_calls")
    graders = {f"chord.grading.{name}" for name in modules}
    assert "chord.grading.graders" in job_code("chord validate", {}).definitions
    for spec in (of_problems(demo, "train"), of_traces(demo, "expert")):
        assert not graders & job_code(spec.verb, spec.uses).definitions.keys()


def test_prompts_that_the_model_cannot_read_are_dropped_and_counted(demo: Study) -> None:
    poor = demo.model.model_copy(update={"alphabet": "0123456789+=>:,;~abcdefghijklmnopqrstuvwxy"})  # no z
    found = training(changed(demo, model=poor), "reversal", 500)
    assert found.dropped[OUTSIDE] > 0
    assert not any("z" in problem.prompt for problem in found.problems)


def test_prompts_over_the_token_limit_are_dropped_and_counted(demo: Study) -> None:
    # "~" and four letters and two tokens of the template are seven tokens; words of five letters need eight
    short = changed(demo, rollouts=demo.rollouts.model_copy(update={"max_prompt_tokens": 7}))
    found = training(short, "reversal", 100)
    assert found.dropped[TOO_LONG] > 0
    assert {len(problem.prompt) for problem in found.problems} == {4, 5}


def test_a_setting_that_the_generator_itself_refuses_is_told_by_its_key(demo: Study) -> None:
    task = {"dataset": "chain_sum", "prompt": "{expression}", "settings": {"min_digits": 0}}
    with pytest.raises(ConfigError, match=r"config/studies/demo.yaml: tasks.odd.*min_digits must be positive"):
        training(with_task(demo, **task), "odd", 1)


def test_a_prompt_may_quote_the_generators_own_question(demo: Study) -> None:
    free = changed(
        with_task(demo, dataset="lcm", prompt="{question} Answer:"),
        model=demo.model.model_copy(update={"alphabet": None}),
    )
    problem = training(free, "odd", 1).problems[0]
    assert problem.prompt.endswith(" Answer:") and "Least Common Multiple" in problem.prompt
    assert int(problem.answer) > 0


def test_a_problem_has_one_name_wherever_it_is_asked() -> None:
    names = [problem_id(*asked) for asked in (("sum-3", "1+2"), ("sum-4", "1+2"), ("sum-3", "2+1"), ("sum-3", "1+2"))]
    assert names[0] == names[3] and len(set(names)) == 3


def test_the_parts_of_the_corpus_add_up_to_its_size_by_largest_remainder(demo: Study) -> None:
    assert demo.base_corpus
    # 97 * 0.5 = 48.5 and five times 97 * 0.1 = 9.7: 48 + 5 * 9 = 93, and four of the five 9.7 are rounded up
    odd = demo.base_corpus.model_copy(update={"size": 97})
    assert part_sizes(odd) == [48, 10, 10, 10, 10, 9]
    assert task_sizes(odd) == {"sum-3": 58, "sum-1": 10, "sum-2": 10, "sum-4": 10, "reversal": 9}


def test_every_problem_of_the_corpus_becomes_one_text_of_its_part(demo: Study) -> None:
    assert demo.base_corpus
    corpus = demo.base_corpus.model_copy(update={"size": 10})
    needed = task_sizes(corpus)
    problems = [Problem(f"{task}-{n}", task, "", "", {}) for task, size in needed.items() for n in range(size)]
    rows = divided(corpus, problems)
    assert sorted(problem.id for _, problem in rows) == sorted(problem.id for problem in problems)
    assert all(part.task == problem.task for part, problem in rows)
    assert [part.style for part, _ in rows] == ["terse"] * 5 + ["worked"] * 4 + ["terse"]
    with pytest.raises(ValueError, match="expected"):
        divided(corpus, problems[1:])


def test_the_order_of_the_corpus_is_decided_by_the_seed() -> None:
    assert shuffled(100, 1) == shuffled(100, 1) != shuffled(100, 2)
    assert sorted(shuffled(100, 1)) == list(range(100)) != shuffled(100, 1)
