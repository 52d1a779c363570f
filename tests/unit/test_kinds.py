"""Kinds of tables and figures beside shares and curves: lengths, categories, the scheme; and what a study builds."""

import json
import re
from pathlib import Path

import pytest

from chord.audit.inquiry import table_differences
from chord.config.paper import Categories, Lengths, Paper, Table, Tabled, benchmarks_of, divisions
from chord.config.project import load
from chord.config.sets import below, why_not
from chord.data.problems import draw
from chord.errors import UserError
from chord.findings import figures, reading, rendering, table
from chord.records import Problem, write_lines

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT, "demo")
NUMBERED = [f"table{n}" for n in range(1, 13)] + [f"figure{n}" for n in range(1, 14)]
VERSIONS = dict.fromkeys(PROJECT.study.benchmarks, "1")
NOT_IN_DEMO = {"table7", "table9", "figure10"}


def problem(name: str, **source: object) -> Problem:
    return Problem(name, "task", f"prompt {name}", "0", source)


def written(results: Path, benchmark: str, *problems: Problem) -> Path:
    file = results / "data" / "benchmarks" / f"{benchmark}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(write_lines(problems), encoding="utf-8")
    return file


def scores(results: Path, arm: str, seed: int, benchmark: str, rows: dict[str, tuple[str, list[int]]]) -> None:
    """Scores of two samples a problem: `rw` is right, wrong; beside them their lengths."""
    words = {"r": "right", "w": "wrong"}
    told = [
        {"id": name, "outcomes": [words[letter] for letter in outcomes], "response_tokens": lengths}
        for name, (outcomes, lengths) in rows.items()
    ]
    share = sum(outcomes.count("r") for outcomes, _ in rows.values()) / (2 * len(rows))
    path = reading.scores_path(results, arm, seed, benchmark)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"benchmark": benchmark, "version": 1, "metric": "avg@2", "mean": share, "problems": told}
    path.write_text(json.dumps(whole))


def small(name: str, kind: type[Tabled], seeds: tuple[int, ...] = (1, 2)) -> tuple[object, Tabled]:
    """The project with these seeds, and one of its tables with one arm."""
    project = load(ROOT, "demo", seeds)
    artefact = project.artefacts[name].model_copy(update={"arms": ("grpo",)})
    assert isinstance(artefact, kind)
    return project, artefact


# --- lengths -----------------------------------------------------------------------------------


def test_a_table_of_lengths_averages_samples_then_problems_then_seeds(tmp_path: Path) -> None:
    project, artefact = small("table2", Lengths)
    for benchmark in PROJECT.study.benchmarks:
        scores(tmp_path, "grpo", 1, benchmark, {"a": ("rw", [10, 20]), "b": ("ww", [30, 40])})  # 15, 35: mean 25
        scores(tmp_path, "grpo", 2, benchmark, {"a": ("rw", [12, 22]), "b": ("ww", [34, 40])})  # 17, 37: mean 27
    counts_of_the_expert(tmp_path)
    data = table.as_data(project, "table2", artefact, tmp_path, VERSIONS)
    cell = data["rows"][0]["cells"]["in-distribution"]
    assert (cell["mean"], cell["by_seed"]) == (26, [25, 27])
    assert (cell["n_seeds"], cell["n_problems"], cell["samples_per_problem"]) == (2, 2, 2)
    first = data["columns"][0]
    assert (data["unit"], first["metric"], first["paper_column"]) == ("tokens", "tokens", "math")
    assert cell["paper"] == 1423
    page = rendering.table_page(data)
    assert "Tokens of an answer" in page and "<small>tokens</small>" in page


def test_scores_without_lengths_are_refused_by_name(tmp_path: Path) -> None:
    project, artefact = small("table2", Lengths, (1,))
    for benchmark in PROJECT.study.benchmarks:
        scores(tmp_path, "grpo", 1, benchmark, {"a": ("rw", [10, 20]), "b": ("ww", [30])})
    with pytest.raises(UserError, match=r"in-distribution/scores.json: found no lengths of the answers"):
        table.as_data(project, "table2", artefact, tmp_path, VERSIONS)


def counts_of_the_expert(results: Path) -> Path:
    """What chord demonstrate counted."""
    counts = results / "data" / "traces" / "expert.json"
    counts.parent.mkdir(parents=True)
    told = {"writer": "scripted expert", "kept": 256, "response_tokens": {"mean": 57.25}}
    counts.write_text(json.dumps(told | {"length_measured_in": "letters"}))
    return counts


def test_the_length_of_the_expert_is_told_with_the_papers(tmp_path: Path) -> None:
    counts = counts_of_the_expert(tmp_path)
    found = reading.expert_length([counts]) | {"paper": {"math": 6132.0, "tool use": "not published"}}
    assert rendering.notes({"rows": [], "expert": found}) == [
        "Expert (scripted expert): 57.2 a trace, mean over 256 traces, in letters; the paper's: math 6132.0,"
        " tool use not published."
    ]
    (tmp_path / "other.json").write_text(
        json.dumps(json.loads(counts.read_text()) | {"kept": 768, "response_tokens": {"mean": 17.2}})
    )
    both = reading.expert_length([counts, tmp_path / "other.json"])  # of two training seeds
    assert (both["mean"], both["traces"]) == (pytest.approx((256 * 57.2 + 768 * 17.2) / 1024, abs=0.1), 1024)
    counts.write_text("{}")
    with pytest.raises(UserError, match="found no kept, length_measured_in, response_tokens, writer"):
        reading.expert_length([counts])


# --- categories --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("111+222", "0 carries"),
        ("178+445", "2 carries"),  # 8 + 5 = 13, 7 + 4 + 1 = 12, 1 + 4 + 1 = 6
        ("119+101", "1 carry"),  # 9 + 1 = 10
        ("999+1", "3 carries"),
        ("9+9+9", "1 carry"),  # two tens, once
        ("12-3", None),
    ],
)
def test_carries_are_counted_place_by_place(expression: str, said: str | None) -> None:
    assert reading.carries(problem("a", expression=expression)) == said


def test_problems_are_divided_in_natural_order_and_lone_ones_stand_together(tmp_path: Path) -> None:
    words = ("abc", "abcd", "abe", "abcdefghij", "abef", "abcde")
    file = written(tmp_path, "words", *(problem(word, word=word) for word in words))
    assert reading.divided(file, "letters") == {
        "3 letters": ["abc", "abe"],
        "4 letters": ["abcd", "abef"],
        "others": ["abcdefghij", "abcde"],
    }
    subjects = written(tmp_path, "subjects", *(problem(str(n), subject="law" if n < 3 else "art") for n in range(4)))
    assert reading.divided(subjects, "subject") == {"law": ["0", "1", "2"]}  # a single one has no standard error
    with pytest.raises(UserError, match="found problem '0' without it, expected problems that have `carries`"):
        reading.divided(subjects, "carries")


def test_a_table_by_category_has_the_whole_benchmark_and_then_each_category(tmp_path: Path) -> None:
    project, artefact = small("table11", Categories)
    for seed in (1, 2):
        rows = {"a": ("rr", [1, 1]), "b": ("rw", [1, 1]), "c": ("ww", [1, 1]), "d": ("wr", [1, 1])}
        scores(tmp_path, "grpo", seed, "other-skill", rows)  # 1, 1/2, 0, 1/2
    words = {"a": "abc", "b": "abx", "c": "abcd", "d": "abce"}
    written(tmp_path, "other-skill", *(problem(name, word=word) for name, word in words.items()))
    data = table.as_data(project, "table11", artefact, tmp_path, VERSIONS)
    cells = data["rows"][0]["cells"]
    means = {"other-skill": 50, "other-skill/3 letters": 75, "other-skill/4 letters": 25}
    assert {key: cell["mean"] for key, cell in cells.items()} == means
    assert [cell["n_problems"] for cell in cells.values()] == [4, 2, 2]
    assert [column["label"] for column in data["columns"]] == ["word reversal", "3 letters", "4 letters"]
    assert all(cell["paper"] is None and cell["not_published"] for cell in cells.values())


def test_parts_of_a_benchmark_stand_in_columns_of_their_own_out_of_the_same_answers(tmp_path: Path) -> None:
    project = load(ROOT, "tools", (1, 2))
    artefact = project.artefacts["table1"].model_copy(update={"arms": ("grpo",)})
    assert isinstance(artefact, Table)
    kept = {"a": "live", "b": "live", "c": "non-live", "d": "non-live", "e": "non-live"}
    written(tmp_path, "bfcl", *(problem(name, kind=kind) for name, kind in kept.items()))
    for seed in (1, 2):
        rows = {name: (outcomes, [1, 1]) for name, outcomes in zip(kept, ("rr", "rw", "ww", "ww", "rr"), strict=True)}
        scores(tmp_path, "grpo", seed, "bfcl", rows)  # live 1, 1/2; non-live 0, 0, 1
    data = table.as_data(project, "table1", artefact, tmp_path, {"bfcl": "1"})
    (row,) = data["rows"]
    means = {column["label"]: row["cells"][column["benchmark"]]["mean"] for column in data["columns"]}
    assert means == {"BFCL": 50, "BFCL live": 75, "BFCL non-live": pytest.approx(100 / 3)}
    assert [column["paper_column"] for column in data["columns"]] == ["BFCL", "BFCL live", "BFCL non-live"]
    assert [rendering.paper_value(cell) for cell in row["cells"].values()] == ["77.1", "n.p.", "n.p."]
    (tmp_path / "table1.json").write_text(json.dumps(data), encoding="utf-8")
    assert table_differences(tmp_path / "table1.json", tmp_path) == []
    row["cells"]["bfcl/live"]["mean"] = 76.0
    (tmp_path / "table1.json").write_text(json.dumps(data), encoding="utf-8")
    assert len(table_differences(tmp_path / "table1.json", tmp_path)) == 1
    assert divisions(project.study, project.artefacts["table3"]) == {}  # the paper has no such columns there


# --- the paper's cells -------------------------------------------------------------------------


def test_a_cell_of_the_paper_is_a_number_not_published_or_not_there() -> None:
    paper = Paper(model="M", cells={"grpo": {"AMC": 52.1, "BFCL": "not published"}, "luffy": "not published"})
    assert paper.columns == ("AMC", "BFCL")
    assert [paper.column(names) for names in (("AIME24", "BFCL"), ("AIME24",))] == ["BFCL", None]
    numbers = [paper.number(*cell) for cell in (("grpo", "AMC"), ("grpo", "BFCL"), ("luffy", "AMC"))]
    assert numbers == [52.1, None, None]
    cells = ({"paper": 52.1}, {"paper": None, "not_published": True}, {"paper": None, "not_published": False})
    assert [rendering.paper_value(cell) for cell in cells] == ["52.1", "n.p.", "–"]
    told = [("grpo", "AMC"), ("grpo", "BFCL"), ("luffy", "AMC"), ("luffy", None), ("focal", "AMC"), ("grpo", "AIME24")]
    assert [paper.is_unpublished(*one) for one in told] == [False, True, True, False, False, False]
    assert Paper(model="M").is_unpublished("focal", "AMC") and not Paper(model="M").is_unpublished("focal", None)
    beside = Paper(model="M", cells={"grpo": {"math": 1423}}, beside={"math": "AMC"})
    assert beside.number("grpo", beside.column(("AMC",))) == 1423
    assert Paper(model="M").column(("AMC",)) == "AMC"  # nothing is known: any cell is unpublished


def test_a_table_shows_the_benchmarks_that_it_names_as_the_paper_or_the_study_does() -> None:
    table1 = PROJECT.artefacts["table1"]
    assert isinstance(table1, Table)
    assert benchmarks_of(load(ROOT, "math").study, table1) == ("amc", "aime24", "aime25", "mmlu-pro")
    assert benchmarks_of(load(ROOT, "tools").study, table1) == ("bfcl",)
    assert benchmarks_of(PROJECT.study, table1) == tuple(PROJECT.study.benchmarks)
    named = table1.model_copy(update={"benchmarks": ("harder", "MMLU-Pro", "AIME25")})
    assert benchmarks_of(PROJECT.study, named) == ("harder", "other-skill")
    assert benchmarks_of(load(ROOT, "math").study, table1.model_copy(update={"benchmarks": None}))[-1] == "math-500"
    lacking = table1.model_copy(update={"benchmarks": ("AIME25",)})
    assert why_not(PROJECT.study, PROJECT.arms, lacking) == "the study has no benchmark beside AIME25"


def test_an_arm_without_a_row_in_the_papers_table_has_a_dash_beside_it(tmp_path: Path) -> None:
    project, artefact = small("table1", Table)
    artefact = artefact.model_copy(update={"arms": ("grpo", "focal")})
    for seed, arm in ((seed, arm) for seed in (1, 2) for arm in artefact.arms):
        for benchmark in PROJECT.study.benchmarks:
            scores(tmp_path, arm, seed, benchmark, {"a": ("rw", [10, 20]), "b": ("ww", [30, 40])})
    data = table.as_data(project, "table1", artefact, tmp_path, VERSIONS)
    shown = {row["arm"]: [rendering.paper_value(cell) for cell in row["cells"].values()] for row in data["rows"]}
    assert shown == {"grpo": ["52.1", "13.2", "45.8"], "focal": ["–", "–", "–"]}
    for column in data["columns"][1:]:  # as where the paper's table lacks columns
        column["paper_column"] = None
    for row in data["rows"]:
        for column in data["columns"][1:]:
            row["cells"][column["benchmark"]] |= {"paper": None, "not_published": False}
    html = rendering.table_page(data)
    assert re.findall(r'<td class="paper">(.*?)</td>', html) == ["52.1", "–", "–", "–", "–", "–"]


def test_rows_without_an_arm_are_told_with_their_reason() -> None:
    artefact = PROJECT.artefacts["table12"]
    assert isinstance(artefact, Tabled)
    (note,) = rendering.notes({"rows": [], "not_built": artefact.not_built})
    assert note.startswith("SRFT: not built: accounts of its loss")


# --- what is built -----------------------------------------------------------------------------


def test_every_table_and_figure_of_the_paper_is_there_with_cells_and_a_claim() -> None:
    assert set(NUMBERED) <= PROJECT.artefacts.keys()
    for name, artefact in PROJECT.artefacts.items():
        assert artefact.paper.claim, name
        assert artefact.paper.rows.keys() <= PROJECT.arms.keys(), name


def test_the_demo_builds_all_but_those_whose_files_say_why_not() -> None:
    absent = {name: reason for name in PROJECT.artefacts if (reason := PROJECT.why_not(name))}
    assert absent.keys() == NOT_IN_DEMO
    assert "judge" in absent["table7"] and "mixture-of-experts" in absent["table9"]


def test_a_study_without_the_sets_of_an_arm_says_so_and_names_the_arm() -> None:
    small_study = load(ROOT, "small")
    assert small_study.why_not("table6") == "the study has no other_experts.second, which second-sft-lr-low needs"
    assert small_study.why_not("table8") == "the study has no other_models.weak, which weak-original needs"
    lacking = "the study has no benchmark with `categories` beside the paper's MMLU-Pro"
    assert small_study.why_not("table11") == lacking
    assert "weak-grpo" not in small_study.trainable and "grpo" in small_study.trainable


def test_each_study_of_the_papers_size_builds_its_tables_and_figures_or_gives_a_reason_in_its_file() -> None:
    for name, absent in (("math", {"table3", "table4", "table6", "table7", "table9", "table10", "table12"}),
                         ("tools", {"table5", "table7", "table8", "table9", "table11", "appendixd3"})):  # fmt: skip
        project = load(ROOT, name)
        reasons = {one: reason for one in project.artefacts if (reason := project.why_not(one))}
        figures = {"math": {"figure10", "figure12"}, "tools": {"figure10", "figure13"}}[name]
        assert reasons.keys() == absent | figures
        unsaid = {one for one, reason in reasons.items() if name not in project.artefacts[one].not_here}
        assert unsaid == set(), name


def test_what_is_not_built_is_refused_with_the_reason(tmp_path: Path) -> None:
    files = [word for name in ("json", "markdown", "html") for word in (f"--{name}", str(tmp_path / name))]
    line = ["--study", "demo", "--artefact", "table9", "--results", str(tmp_path), "--root", str(ROOT), *files]
    with pytest.raises(UserError, match="table9 is not built in study demo: the demo's own models are dense"):
        table.main(line)


def test_below_an_arm_is_all_that_it_starts_from_or_chooses_between() -> None:
    assert below(["second-sft-best+rl"], PROJECT.arms) == [
        *(f"second-sft-lr-{name}" for name in ("low", "mid", "high")),
        "second-sft-best",
        "second-sft-best+rl",
    ]


def test_a_larger_expert_set_begins_with_the_expert_set() -> None:
    expert = draw(PROJECT.study, "expert").problems
    large = draw(PROJECT.study, "expert-large").problems
    assert (len(expert), len(large)) == (256, 1024)
    assert large[:256] == expert


# --- the scheme --------------------------------------------------------------------------------


def test_the_scheme_shows_what_the_objective_computes() -> None:
    import torch

    from chord.objective import ExpertTokens, WeightPhi, group_advantages

    data = figures.scheme_data(PROJECT, "figure3", PROJECT.artefacts["figure3"])
    p = torch.tensor([one["p"] for one in data["expert_tokens"]], dtype=torch.float64)
    phi = torch.tensor([one["phi"] for one in data["expert_tokens"]], dtype=torch.float64)
    tokens = ExpertTokens(p.log(), p, 2)
    torch.testing.assert_close(WeightPhi(weight="p(1-p)").of(tokens), phi)
    rewards = torch.tensor([[one["reward"] for one in data["rollouts"]]], dtype=torch.float64)
    ours = torch.tensor([[one["advantage"] for one in data["rollouts"]]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards, 0.0), ours)


def test_every_row_that_the_project_shows_says_what_the_paper_has_of_it() -> None:
    tables = {name: one for name, one in load(ROOT, "demo").artefacts.items() if isinstance(one, Tabled)}
    silent = {name: set(one.arms) - set(one.paper.rows) for name, one in tables.items() if one.paper.rows}
    assert silent == {name: set() for name in silent}
    assert len(silent) > 5
