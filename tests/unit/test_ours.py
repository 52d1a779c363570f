"""What `# ours:` marks in config/, and that the page alone is made again when a mark changes."""

from pathlib import Path

from chord.config.paper import Tabled
from chord.config.project import Ours, load, ours
from chord.steps import Dag, files_with_ours

ROOT = Path(__file__).parents[2]
TEXT = """
# ours: a reason above,
# in two lines
seed: 3
data:
  train: {task: sums, size: 8}  # ours: eight are enough
  # a comment that marks nothing
  other: "text # ours alone"
  arms:
    - name: one
      mu: 0.5    # ours: half
"""


def marked(tmp_path: Path, text: str) -> list[Ours]:
    (tmp_path / "study.yaml").write_text(text)
    return ours(tmp_path, ["study.yaml", "not-there.yaml"])


def test_a_mark_gives_key_value_and_reason_at_the_end_of_a_line_or_above_it(tmp_path: Path) -> None:
    assert marked(tmp_path, TEXT) == [
        Ours("study.yaml", "seed", "3", "a reason above, in two lines"),
        Ours("study.yaml", "data.train", "{task: sums, size: 8}", "eight are enough"),
        Ours("study.yaml", "", "0.5", "half"),
    ]


def test_every_mark_of_the_studies_has_a_key_and_a_reason() -> None:
    for study in ("demo", "small"):
        found = ours(ROOT / "config", files_with_ours(load(ROOT, study)))
        assert found and all(one.reason for one in found)
        # Marks between the claims of the list are of rules, not of a key.
        assert [one for one in found if not one.key and one.file != "claims.yaml"] == []
        text = (ROOT / f"config/studies/{study}.yaml").read_text()
        assert sum(one.file == f"studies/{study}.yaml" for one in found) == text.count("# ours: ")


def test_marks_and_scripts_decide_the_page_alone_and_the_style_tables_and_verdicts_too() -> None:
    project = load(ROOT, "small")
    decided = {key: str(one.decided_by) for key, one in Dag(project, ROOT).specs.items()}
    assert [key for key, text in decided.items() if "a fifth of the training" in text] == ["report.manifest.json"]
    assert [key for key, text in decided.items() if "chain.js" in text] == ["report.manifest.json"]
    tables = {name for name, one in project.artefacts.items() if isinstance(one, Tabled) and not project.why_not(name)}
    styled = {key.removesuffix(".manifest.json") for key, text in decided.items() if "page.css" in text}
    assert styled == tables | {"claims", "report"}
