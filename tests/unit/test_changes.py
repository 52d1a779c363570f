"""A command of a rule and the recorded one are compared by what they mean: flags, values, files; not by how it ran."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chord.provenance.changes import Told, command_changes, text_of, verb_of, words_of
from chord.provenance.manifest import Content, Manifest

RESULTS = "results/demo"
RECORDED = (
    "python -m chord generate --study demo --benchmark harder"
    " --model results/demo/models/base/model --seed 1 --threads 2 --answers results/demo/a/answers.jsonl --ahead b=c=d"
)


def manifest(command: str = RECORDED, folder: str = ".") -> Manifest:
    model = Content.model_construct(root="study", path="models/base/model")
    words = tuple(command.split(" "))
    return Manifest.model_construct(verb="chord generate", command=words, folder=folder, inputs={"model": model})


def differences(shell: str, reads: tuple[str, ...] = (), **recorded: str) -> list[str]:
    return [str(one) for one in command_changes(manifest(**recorded), Told(shell, reads), RESULTS)]


@pytest.mark.parametrize(
    "shell",
    [
        RECORDED,
        f"{RECORDED} > log 2>&1",
        f"{RECORDED} 2> log >> log < /dev/null",
        f"mkdir -p x && {RECORDED} || false",
        f"srun --nodes=2 python -m chord launch --per-node 8 --logs x -- {RECORDED}",
        f"A=1 /opt/venv/bin/{RECORDED}",
        RECORDED.replace("--threads 2", "--threads 64").replace(" --ahead b=c=d", " --state x --root ."),
        RECORDED.replace("--seed 1", "--checkpoint-every-steps 3 --checkpoint-every-minutes 1.5 --seed=1"),
        RECORDED.replace(" --seed 1", "").replace("--benchmark", "--seed '1'  --benchmark"),
        RECORDED.replace("--model results", "--model ./results/../results"),
    ],
)
def test_how_a_command_is_run_and_laid_out_is_no_difference(shell: str) -> None:
    assert differences(shell) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--seed 1", "--seed 2", "command --seed: 1 -> 2"),
        ("--seed 1", "--seed 1 2", "command --seed: nothing -> 2"),
        ("--seed 1", "--greedy --seed 1", "command --greedy: nothing -> given"),
        ("--seed 1 ", "", "command --seed: 1 -> nothing"),
        ("--seed 1", "--seeds 1 --seed 1", "command --seeds: nothing -> 1"),
        ("chord generate", "chord score", "command verb: chord generate -> chord score"),
        ("chord generate --", "chord generate y --", "command words: nothing -> y"),
        ("models/base/model", "models/other/model", "reads model: models/base/model -> models/other/model"),
        ("--study demo", "--study math", "command --study: demo -> math"),
        ("--seed 1", "--solved results/demo/x --seed 1", "reads solved: nothing -> x"),
    ],
)
def test_what_a_command_is_told_is_a_difference_and_named(old: str, new: str, said: str) -> None:
    shell = RECORDED.replace(old, new)
    assert shell != RECORDED
    assert differences(shell, ("results/demo/x",)) == [said]


def test_the_order_of_values_counts_but_for_files_that_are_asked_the_same() -> None:
    for flag, told in (
        ("--candidates", ["command --candidates: a b -> b a"]),
        ("--benchmarks", []),
        ("--apart-from", []),
    ):
        assert differences(f"{RECORDED} {flag} b a", command=f"{RECORDED} {flag} a b") == told


@pytest.mark.parametrize("folder", ["sub", "/elsewhere/project"])
def test_a_command_typed_in_another_folder_or_before_a_move_names_the_same_files(folder: str) -> None:
    by_hand = RECORDED.replace("--model ", "--model /old/place/").replace(
        "--answers ", f"--answers ../{folder[:3]}/../"
    )
    by_hand = by_hand.replace("--study ", "--study /old/place/")
    assert differences(RECORDED, command=by_hand, folder=folder) == []
    assert differences(RECORDED.replace("base/model", "b/model"), command=by_hand, folder=folder)


def test_a_value_that_was_taken_out_of_the_record_is_not_compared() -> None:
    assert differences(f"{RECORDED} --api-key hf_abcdefghijklm", command=f"{RECORDED} --api-key [removed]") == []


def test_a_rule_without_a_verb_gives_a_text_or_nothing_to_compare() -> None:
    told = Told("printf '%s\\n' '{\"seed\": 1}' > results/demo/run.json 2> log", ())
    assert (text_of(told), verb_of(told.shell)) == ('{"seed": 1}', (None, []))
    assert list(command_changes(manifest(), told, RESULTS)) == []
    assert text_of(Told(RECORDED, ())) is None and text_of(Told("", ())) is None


@given(st.text(alphabet="ab '\"\\\t\n\r>|;#\0\x0b\xa0", max_size=12))
def test_a_command_is_split_as_a_shell_splits_it(shell: str) -> None:
    try:
        expected = shlex.split(shell)
    except ValueError:
        with pytest.raises(ValueError):
            words_of(shell)
    else:
        assert words_of(shell) == expected
