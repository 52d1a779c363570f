import pytest

from chord.config import ConfigError, Split, Study, Task, load
from chord.records import Problem
from chord.tasks.corpus import divided, part_sizes, shuffled, task_sizes
from chord.tasks.problems import OTHER_SHAPE, OUTSIDE, TOO_LONG, Pool, problem_id
from tests.unit.small_study import write_study


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Study:
    file = write_study(tmp_path_factory.mktemp("project"))
    return load(file.parents[2], study="demo").study


def changed(study: Study, **fields: object) -> Study:
    return study.model_copy(update=fields)


def with_task(study: Study, **settings: object) -> Study:
    return changed(study, tasks=study.tasks | {"odd": Task.model_validate(settings)})


def test_equal_seeds_draw_equal_problems_and_another_seed_draws_others(demo: Study) -> None:
    split = Split(task="sum-3", size=50)
    first, again = Pool(demo).split("data.train", split), Pool(demo).split("data.train", split)
    assert first == again
    other = changed(demo, data=demo.data.model_copy(update={"seed": demo.data.seed + 1}))
    shared = {p.prompt for p in first.problems} & {p.prompt for p in Pool(other).split("data.train", split).problems}
    assert len(shared) < 5  # 50 of 810,000 sums drawn twice


def test_the_first_problems_of_a_split_do_not_depend_on_its_size(demo: Study) -> None:
    small = Pool(demo).split("data.train", Split(task="sum-3", size=20)).problems
    large = Pool(demo).split("data.train", Split(task="sum-3", size=60)).problems
    assert large[:20] == small


def test_only_additions_are_kept_and_the_subtractions_are_counted(demo: Study) -> None:
    draw = Pool(demo).split("data.train", Split(task="sum-3", size=100))
    for problem in draw.problems:
        left, right = problem.prompt.split("+")
        assert len(left) == len(right) == 3
        assert int(left) + int(right) == int(problem.answer)
    assert draw.dropped[OTHER_SHAPE] > 50  # half of chain_sum subtracts
    assert draw.drawn == 100 + sum(draw.dropped.values())


def test_only_differences_are_kept_where_those_are_wanted(demo: Study) -> None:
    task = demo.tasks["sum-2"].model_copy(update={"keep": "differences"})
    draw = Pool(changed(demo, tasks={"minus": task})).split("data.train", Split(task="minus", size=100))
    for problem in draw.problems:
        left, right = problem.prompt.split("-")
        assert int(left) - int(right) == int(problem.answer)
    assert draw.dropped[OTHER_SHAPE] > 50  # half of chain_sum adds


def test_words_are_small_letters_and_their_answer_is_the_word_reversed(demo: Study) -> None:
    any_letter = changed(demo, model=demo.model.model_copy(update={"alphabet": None}))  # the list has names in capitals
    for problem in Pool(any_letter).split("x", Split(task="reversal", size=300)).problems:
        word = problem.prompt.removeprefix("~")
        assert word.islower() and word.isascii() and 3 <= len(word) <= 5
        assert problem.answer == "".join(reversed(word))


def test_no_split_repeats_a_prompt_of_its_own_or_of_an_earlier_one(demo: Study) -> None:
    pool = Pool(demo)
    prompts = [
        problem.prompt
        for where in ("data.train", "data.validation", "data.expert")
        for problem in pool.split(where, Split(task="sum-1", size=30)).problems
    ]
    assert len(prompts) == len(set(prompts)) == 90  # of the 100 sums of two digits


def test_a_split_larger_than_its_task_is_refused_with_what_was_found(demo: Study) -> None:
    with pytest.raises(ConfigError) as refusal:
        Pool(demo).split("data.train", Split(task="sum-1", size=101))
    message = str(refusal.value)
    assert message.startswith(
        "config/studies/demo.yaml: data.train asks for 101 problems of 'sum-1', found 100 that fit"
    )
    assert "already in this split" in message


def test_the_base_corpus_repeats_small_tasks_but_takes_no_prompt_of_a_split(demo: Study) -> None:
    assert demo.base_corpus
    pool = Pool(changed(demo, base_corpus=demo.base_corpus.model_copy(update={"size": 4000})))
    taken = {p.prompt for p in pool.split("data.train", Split(task="sum-1", size=60)).problems}
    problems = pool.corpus().problems
    assert not taken & {p.prompt for p in problems}
    ones = [p.prompt for p in problems if p.task == "sum-1"]
    assert len(ones) == 400  # a share of 0.1
    assert len(set(ones)) == 40  # all sums of two digits that are left


def test_prompts_that_the_model_cannot_read_are_dropped_and_counted(demo: Study) -> None:
    poor = demo.model.model_copy(update={"alphabet": "0123456789+=>:,;~abcdefghijklmnopqrstuvwxy"})  # no z
    draw = Pool(changed(demo, model=poor)).split("x", Split(task="reversal", size=500))
    assert draw.dropped[OUTSIDE] > 0
    assert not any("z" in problem.prompt for problem in draw.problems)


def test_prompts_over_the_token_limit_are_dropped_and_counted(demo: Study) -> None:
    # "~" and four letters and two tokens of the template are seven tokens; words of five letters need eight
    short = changed(demo, rollouts=demo.rollouts.model_copy(update={"max_prompt_tokens": 7}))
    draw = Pool(short).split("x", Split(task="reversal", size=100))
    assert draw.dropped[TOO_LONG] > 0
    assert {len(problem.prompt) for problem in draw.problems} == {4, 5}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"dataset": "chain_sums", "prompt": "{expression}"},
            "expected a dataset of reasoning-gym (nearest: `chain_sum`)",
        ),
        ({"dataset": "chain_sum", "settings": {"terms": 2}, "prompt": "{expression}"}, "tasks.odd.settings is"),
        (
            {"dataset": "chain_sum", "settings": {"min_digits": 0}, "prompt": "{expression}"},
            "min_digits must be positive",
        ),
        ({"dataset": "chain_sum", "prompt": "{sum}"}, "expected a text with only these in braces"),
        ({"dataset": "chain_sum", "prompt": "{expression"}, "expected names in braces"),
    ],
)
def test_a_task_that_the_generator_does_not_know_is_refused(demo: Study, task: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"config/studies/demo.yaml: tasks.odd") as refusal:
        Pool(with_task(demo, **task)).split("data.train", Split(task="odd", size=1))
    assert message in str(refusal.value)


def test_a_prompt_may_quote_the_generators_own_question(demo: Study) -> None:
    free = changed(
        with_task(demo, dataset="lcm", prompt="{question} Answer:"),
        model=demo.model.model_copy(update={"alphabet": None}),
    )
    problem = Pool(free).split("x", Split(task="odd", size=1)).problems[0]
    assert problem.prompt.endswith(" Answer:") and "Least Common Multiple" in problem.prompt
    assert int(problem.answer) > 0


def test_a_problem_has_one_name_wherever_it_is_asked() -> None:
    assert problem_id("sum-3", "1+2") == problem_id("sum-3", "1+2")
    assert len({problem_id("sum-3", "1+2"), problem_id("sum-4", "1+2"), problem_id("sum-3", "2+1")}) == 3


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
