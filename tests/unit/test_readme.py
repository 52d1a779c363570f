"""What the READMEs name exists, and what exists is named."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_of_the_tests_names_every_test_file_and_no_other() -> None:
    named = set(
        re.findall(r"^\| `(\S+/test_\w+\.py)`", (ROOT / "tests" / "README.md").read_text(encoding="utf-8"), re.M)
    )
    assert named == {str(path.relative_to(ROOT / "tests")) for path in (ROOT / "tests").glob("*/test_*.py")}


def test_every_path_of_the_repository_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\b(?:config|chord|envs|workflow|profiles|tests)/[\w./-]*[\w/]", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_option_that_the_readme_gives_to_training_is_one_that_training_knows() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"python -m chord\.train(.*?[^\\])\n", text, re.DOTALL)
    assert command
    known = (ROOT / "chord" / "training" / "setup.py").read_text(encoding="utf-8")
    assert [option for option in re.findall(r"--(\w+)", command[1]) if f'("{option}", ' not in known] == []
