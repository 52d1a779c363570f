"""What the documentation names exists: paths, links, options, the version; what CONTRIBUTING.md shows is trained."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chord import __version__
from chord.__main__ import parser_of
from tests.faults.small_run import command, small_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), ROOT / "config/benchmarks/README.md"]


def test_each_test_file_begins_with_the_property_that_it_holds() -> None:
    files = sorted((ROOT / "tests").glob("*/test_*.py"))
    first = {path.name: path.read_text(encoding="utf-8").partition("\n")[0] for path in files}
    assert [name for name, line in first.items() if not re.fullmatch(r'""".{20,}[.:](""")?', line)] == []


def test_every_path_of_the_repository_that_the_documentation_names_exists() -> None:
    for page in {*PAGES} - {ROOT / "tests/README.md"}:
        named = re.findall(
            r"\b(?:config|chord|docs|envs|workflow|profiles|tests)/[\w./-]*[\w/]", page.read_text("utf-8")
        )
        missing = [
            path for path in named if not re.search(r"NAME|STUDY|STEP|locks/", path) and not (ROOT / path).exists()
        ]
        assert missing == [], page


def test_every_link_of_the_documentation_leads_to_a_file_and_a_heading() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text("utf-8")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page}: {link}"
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert not anchor or anchor in anchors, f"{page}: {link}"


def test_every_verb_and_option_that_the_documentation_gives_to_chord_is_known() -> None:
    options = 0
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for verb, rest in re.findall(r"^(?:\$ )?(?:\.venv/bin/|python -m )?chord ([a-z-]+)\b(.*)$", text, re.MULTILINE):
            parser = parser_of(verb)
            given = re.findall(r"--[a-z-]+", rest.partition("#")[0])
            assert [option for option in given if option not in parser.format_help()] == [], (
                f"{page}: chord {verb}{rest}"
            )
            options += len(given)
    assert options > 20


def test_the_changelog_and_the_citation_name_the_version_that_the_command_prints() -> None:
    released = re.findall(r"^## ([\d.]+), \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]
    assert released[0] == cited == __version__


def test_what_contributing_shows_as_code_is_trained_with_no_other_file_touched(tmp_path: Path) -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) == 3
    shutil.copytree(ROOT / "chord", tmp_path / "chord", ignore=shutil.ignore_patterns("__pycache__"))
    for block, module in zip(shown, ("objective.py", "objective.py", "grading/graders.py"), strict=True):
        with (tmp_path / "chord" / module).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{block}")
    run = small_run(tmp_path / "run", **{"recipe.steps": 4}) / "run.json"
    arguments = [sys.executable, "-m", "chord", "train", *command(tmp_path / "run", tmp_path / "out")]
    told = json.loads(run.read_text())
    told["recipe"]["mu"] = {"schedule": "half-life", "start": 0.8, "steps": 2}
    told["recipe"]["expert_tokens"] = {"weight": "p-power", "power": 0.5}
    told["grading"] = {"grader": "end-of-text", "reward": "plus-minus"}
    run.write_text(json.dumps(told))
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]
    assert [line["mu"] for line in steps] == pytest.approx([0.8, 0.8 * 0.5**0.5, 0.4, 0.4 * 0.5**0.5])
    assert all(0 < line["phi_mean"] < 1 for line in steps)
    uses = json.loads((tmp_path / "out/train.manifest.json").read_text())["code"]["uses"]
    assert (uses["mu schedule"], uses["token weight"]) == (["half-life"], ["p-power"])
    assert (uses["grader"], uses["reward"]) == (["end-of-text"], ["plus-minus"])
