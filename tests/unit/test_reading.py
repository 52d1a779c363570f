"""The reader of `config/`: values by the core schema of YAML 1.2, and one line for every text that is refused."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chord.config import reading
from chord.config.project import ours
from chord.config.reading import LONGEST, FunctionName, assigned, parsed, read_json, read_yaml
from chord.errors import ConfigError

ROOT = Path(__file__).parents[2]
# As in https://yaml.org/spec/1.2.2/, section 10.3.2, where YAML 1.1 has other values for most of them.
WHOLE = {"010": 10, "0o10": 8, "0x1F": 31, "-7": -7, "!!int '3'": 3}
REAL = {"1e-6": 1e-6, "1E5": 100000.0, ".5": 0.5, "2.": 2.0, "-.inf": float("-inf")}
OTHERS = {"TRUE": True, "false": False, "~": None, "": None, "Null": None, "!!str 3": "3", "'3'": "3"}
TEXTS = ["1_000", "1:30", "190:20:30", "0b11", "yes", "No", "on", "OFF", "y", "tRUE", "nUll", "2025-08-15", "="]
VALUES = [*(WHOLE | REAL | OTHERS).items(), *((text, text) for text in TEXTS)]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_plain_value_is_what_yaml_1_2_says(text: str, value: object) -> None:
    found = parsed(f"a: [{text}]" if text else "a: [~]", "f.yaml")
    assert found == {"a": [value]}
    assert type(found["a"][0]) is type(value)
    assert parsed(text, "f.yaml") == value  # the same as the value of a whole text, as on a command line


def test_an_alias_has_the_value_that_it_names_and_a_merge_key_is_a_key_like_others() -> None:
    assert parsed("a: &a {b: [1, x]}\nc: *a\nd: [*a, *a]", "f.yaml")["d"] == [{"b": [1, "x"]}] * 2
    assert parsed("x: &x {a: 1}\n<<: *x", "f.yaml") == {"x": {"a": 1}, "<<": {"a": 1}}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 30)
)
LONG = "a: &a " + "x" * 1000 + "\nb: &b [" + "*a, " * 100 + "]\nc: [" + "*b, " * 100 + "]\n"
TOWER = "".join(
    f"a{number}: &a{number} {'[' * 20}{f'*a{number - 1}' if number else 'x'}{']' * 20}\n" for number in range(200)
)
REFUSED = {
    "!!int abc": "f.yaml, line 1, column 4: found 'abc' under the tag !!int, expected a value of that kind",
    "!!float abc": "found 'abc' under the tag !!float",
    "!!bool yes": "found 'yes' under the tag !!bool",
    "!!null 3": "found '3' under the tag !!null",
    "!!timestamp 2025-13-45": "found the tag !!timestamp, expected none",
    "!!binary x": "found the tag !!binary, expected none",
    "!!set {a, b}": "found the tag !!set, expected none",
    "!!omap [a: 1]": "found the tag !!omap, expected none",
    "!!python/object/apply:os.system [ls]": "found the tag !!python/object/apply:os.system, expected none",
    "!function os.system": "found the tag !function, expected none",
    "!!seq x": "found the tag !!seq, expected none",
    "9" * 5000: "found a number of 5000 characters, expected at most 100",
    "-1" + "0" * 5000 + ".5": "found a number of 5004 characters",
    "0x" + "f" * 5000: "found a number of 5002 characters",
    "[" * 3000 + "]" * 3000: "found more than 32 levels of lists and mappings, expected fewer",
    "{a: " * 3000: "found more than 32 levels of lists and mappings, expected fewer",
    "&b [*b]": "found an alias inside what it names, expected none",
    "*b": "found undefined alias 'b'",
    '"\\0"': "found a character that cannot be printed",
    '"\\ud800"': "found a character that cannot be printed",
    '"\\UFFFFFFFF"': "f.yaml: found text that is not YAML",
    "\x00": "f.yaml: found text that is not YAML (unacceptable character #x0000",
    "!%FF x": "found text that is not YAML",
    "x\n--- y": "found text that is not YAML",
    '{a: 1, "a": 2}': "found the key 'a' a second time, expected each key once",
    "{1: 2}": "found the key 1, expected text",
    "{? [x] : 2}": "found the key ['x'], expected text",
    '{"a\\nb": 1}': "found a key of several lines, expected one",
}


@pytest.mark.parametrize(("value", "said"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_no_setting_can_be_is_refused_in_one_line(value: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parsed(f"a: {value}", "f.yaml")
    assert said in str(error.value)
    assert str(error.value).startswith("f.yaml") and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", [BOMB, LONG, TOWER], ids=["values", "characters", "levels"])
def test_aliases_that_name_aliases_are_counted_and_not_written_out(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^f.yaml, line \d+, column \d+: found more than 1000000 characters or 32"):
        parsed(text, "f.yaml")


def test_a_text_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(ConfigError, match=f"f.yaml: found {LONGEST + 1} characters, expected at most {LONGEST}"):
        parsed("[" * (LONGEST + 1), "f.yaml")


def test_a_function_is_a_name_where_functions_may_stand(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("a: !function os.system\nb: os.system\n")
    found = read_yaml(tmp_path / "task.yaml", "task.yaml", functions=True)
    assert found == {"a": "os.system", "b": "os.system"}
    assert [type(value) for value in found.values()] == [FunctionName, str]
    with pytest.raises(ConfigError, match=r"task.yaml, line 1, column 4: found the tag !function, expected none"):
        read_yaml(tmp_path / "task.yaml", "task.yaml")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000, "{'a': 1}", ""])
def test_json_that_cannot_be_read_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run.json: found .*, expected a whole run.json$") as error:
        read_json(tmp_path / "run.json")
    assert len(str(error.value).splitlines()) == 1


def test_a_command_line_is_read_by_the_same_rules() -> None:
    given = assigned(["seeds=[010, 2]", "study=yes", "artefacts=[a, b=c]"])
    assert given == {"seeds": [10, 2], "study": "yes", "artefacts": ["a", "b=c"]}
    with pytest.raises(ConfigError, match=r"^--config: found 'seeds', expected KEY=VALUE"):
        assigned(["seeds"])
    with pytest.raises(ConfigError, match=r"^--config seeds, line 1, column 2: found 'x' under the tag !!int"):
        assigned(["seeds=[!!int x]"])


def test_marks_of_a_file_that_is_not_yaml_are_told_as_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text("a: [  # ours: why\n")
    with pytest.raises(ConfigError, match=r"^config/arms.yaml, line 2, column 1: found text that is not YAML"):
        ours(tmp_path, ["arms.yaml"])


TAGS = ["!!int ", "&a ", "*a", "\\x", "---\n", "<<: ", "%YAML "]
PIECES = st.sampled_from([*"abc:-?[]{},#&*!|>'\"%@`~ \n\t0123456789.+\ud7ff", *TAGS])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_text_ends_in_anything_but_a_value_or_one_line(text: str) -> None:
    try:
        first = parsed(text, "f.yaml")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert repr(parsed(text, "f.yaml")) == repr(first)


def read_by(loader: type, text: str) -> str:
    """The value that one loader reads, or that it refuses the text."""
    try:
        node = yaml.compose(text, Loader=loader)
        return "null" if node is None else repr(reading._Values(True).of(node))
    except (yaml.YAMLError, ValueError, OverflowError):
        return "refused"


FILES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "config").rglob("*.yaml"))]
DAMAGES = [*" \n:#'\"{}[],-µ\u2028", "", ": ", "- ", " #", "&a ", "*a", "|\n", ">-\n", "|#a\n", *"\t\ufeff!?"]


def test_libyaml_reads_every_file_of_config_as_pyyaml_does() -> None:
    assert reading.CParser, "PyYAML has no libyaml here"
    for text in FILES:
        assert read_by(reading._QuickYaml, text) == read_by(reading._Yaml, text) != "refused"


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 10_000), st.integers(1, 300), st.sampled_from(DAMAGES), st.integers(0, 3))
def test_a_damaged_text_that_libyaml_takes_has_the_value_that_pyyaml_reads(text, start, length, more, less) -> None:
    part = text[start % len(text) :][:length]
    damaged = part[: length // 2] + more + part[length // 2 + less :]
    quick = read_by(reading._QuickYaml, damaged)
    if quick != "refused" and not reading.READ_OTHERWISE.search(damaged):
        assert quick == read_by(reading._Yaml, damaged)
