"""Tables: what stands in a cell, what is refused, and how it is shown."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from chord.config.project import load
from chord.errors import UserError
from chord.findings import rendering
from chord.findings.statistics import two_way
from chord.findings.table import main
from tests.unit.results_tree import write_scores

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT, "demo")
TABLE = PROJECT.artefacts["table1"]
SEED = PROJECT.seeds[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results") / "demo"
    write_scores(results, PROJECT)
    return results


@pytest.fixture
def results(made, tmp_path):
    return shutil.copytree(made, tmp_path / "demo")


def tabulated(results, artefact="table1"):
    endings = {"json": "json", "markdown": "md", "html": "html"}
    files = [f"--{kind}={results}/table1.{end}" for kind, end in endings.items()]
    main(["--study=demo", f"--artefact={artefact}", f"--results={results}", f"--root={ROOT}", *files])
    return json.loads((results / "table1.json").read_text())


def scores(results, arm, seed=SEED, benchmark="in-distribution"):
    return results / "runs" / arm / f"seed-{seed}" / "eval" / benchmark / "scores.json"


# --- cells -------------------------------------------------------------------------------------


def test_a_cell_holds_mean_error_counts_seeds_and_the_papers_number_which_may_be_unknown(results):
    rows = {row["arm"]: row["cells"] for row in tabulated(results)["rows"]}
    assert list(rows) == list(TABLE.arms)
    found = rows["chord-mu"]["in-distribution"]
    raw = [json.loads(scores(results, "chord-mu", seed).read_text()) for seed in PROJECT.seeds]
    right = np.array([[row["outcomes"].count("right") / 4 for row in each["problems"]] for each in raw])
    assert found["mean"] == pytest.approx(100 * right.mean(), abs=1e-5)
    assert found["se"] == pytest.approx(100 * two_way(right).se, abs=1e-5)
    assert found["se"] ** 2 == pytest.approx(found["se_seeds"] ** 2 + found["se_problems"] ** 2, abs=1e-4)
    assert 0 <= found["interval"][0] < found["mean"] - found["se"]
    assert found["mean"] + found["se"] < found["interval"][1] <= 100
    assert found["by_seed"] == pytest.approx([100 * each["mean"] for each in raw], abs=1e-5)
    assert (found["n_seeds"], found["n_problems"], found["samples_per_problem"]) == (len(PROJECT.seeds), 40, 4)
    assert found["paper"] == TABLE.paper.cells["chord-mu"]["AMC"]
    assert rows["sft-light"]["in-distribution"]["paper"] is None
    assert re.search(r"\| SFT-light \| [^|]+ \| n\.p\. \|", (results / "table1.md").read_text())


def test_the_same_scores_give_the_same_bytes_whatever_order_their_problems_have_and_all_are_recorded(results):
    tabulated(results)
    before = {name: (results / name).read_bytes() for name in ("table1.json", "table1.md", "table1.html")}
    manifest = json.loads((results / "table1.manifest.json").read_text())
    assert len(manifest["inputs"]) == len(TABLE.arms) * len(PROJECT.seeds) * len(PROJECT.study.benchmarks)
    assert manifest["outputs"].keys() == before.keys()
    path = scores(results, "grpo")
    raw = json.loads(path.read_text())
    raw["problems"].reverse()
    path.write_text(json.dumps(raw))
    tabulated(results)
    assert {name: (results / name).read_bytes() for name in before} == before


# --- refusals ----------------------------------------------------------------------------------


def change(path, **new):
    path.write_text(json.dumps(json.loads(path.read_text()) | new))


def drop_problem(path):
    rows = json.loads(path.read_text())["problems"][1:]
    change(path, problems=rows, mean=float(np.mean([row["outcomes"].count("right") / 4 for row in rows])))


DAMAGE = {
    "no such file": lambda path: path.unlink(),
    "an empty file": lambda path: path.write_text(""),
    "not whole JSON": lambda path: path.write_text(path.read_text()[:200]),
    "a JSON list": lambda path: path.write_text("[]"),
    "benchmark 'harder'": lambda path: change(path, benchmark="harder"),
    "version 0": lambda path: change(path, version="0"),
    "metric avg@8": lambda path: change(path, metric="avg@8"),
    "mean 0.123": lambda path: change(path, mean=0.123),
    "no problems": lambda path: path.write_text(path.read_text().replace('"problems"', '"other"')),
    "other problems": drop_problem,
    "other things under 'problems'": lambda path: change(path, problems=[{"id": "a", "outcomes": ["correct"]}] * 2),
    "problems twice": lambda path: change(path, problems=[{"id": "a", "outcomes": ["right"]}] * 2, mean=1.0),
}  # fmt: skip


@pytest.mark.parametrize("said", DAMAGE)
def test_scores_that_cannot_be_used_are_refused_by_name_and_nothing_is_written(results, said):
    path = scores(results, "chord-phi")
    DAMAGE[said](path)
    with pytest.raises(UserError) as refusal:
        tabulated(results)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert said in message
    assert "expected" in message or "but its outcomes give" in message
    assert "\n" not in message
    assert not list(results.glob("table1*"))


@pytest.mark.parametrize(("artefact", "nearest"), [("figure2", ""), ("table99", "`table9` (nearest) or ")])
def test_an_artefact_that_is_no_table_is_refused_with_the_tables_there_are(results, artefact, nearest):
    said = f"'{artefact}' is no table, expected {nearest}one of: appendixd3, matched, search, selection, table1, "
    with pytest.raises(UserError, match=re.escape(said)):
        tabulated(results, artefact)


MODULES = "findings.table findings.figures findings.claims audit.report evaluation.validate evaluation.choose"


def test_verbs_that_compute_no_model_start_without_torch_lm_eval_and_matplotlib():
    code = f"import sys, {', '.join(f'chord.{name}' for name in MODULES.split())}\n"
    code += "print({'torch', 'lm_eval', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- how it is shown ---------------------------------------------------------------------------


def shown(results, monkeypatch, capsys, width=80):
    tabulated(results)
    monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    main(["--show", str(results / "table1.json")])
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_terminal_table_fits_its_width_and_shows_every_cell_from_80_columns_on_an_arm_a_line(
    results, monkeypatch, capsys, width
):
    text = shown(results, monkeypatch, capsys, width)
    pathless = [line for line in text.splitlines() if str(results) not in line]
    assert max(map(len, pathless)) <= width
    table = json.loads((results / "table1.json").read_text())
    for row in table["rows"]:
        for cell in row["cells"].values():
            assert f"{cell['mean']:.1f} ± {cell['se']:.1f}" in text
        line = next(line for line in text.splitlines() if line.startswith(row["label"]))
        assert width < 80 or line.count("±") == len(PROJECT.study.benchmarks)
    assert "paper: Qwen2.5-7B" in text
    assert "\x1b" not in text


def test_a_terminal_without_greek_letters_gets_their_names(results):
    tabulated(results)
    line = [sys.executable, "-m", "chord", "tabulate", "--show", str(results / "table1.json")]
    env = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    assert b"CHORD-mu" in done.stdout
    assert b" +- " in done.stdout


def test_showing_names_the_pictures_that_exist_and_the_verdicts_beside_the_table(results, monkeypatch, capsys):
    (results / "figure2.svg").write_text("<svg/>")
    assert "claims" not in shown(results, monkeypatch, capsys)
    claim = {"sentence": "SFT falls, then rises.", "verdict": "holds", "found": "by much", "reason": "p = 0.001"}
    claim |= {"primary": True, "summary": "At this scale SFT falls by much.", "seeds_needed": None}
    other = {"sentence": "It works on tools.", "verdict": "not run", "found": "", "reason": "no tools"}
    other |= {"primary": False, "summary": "", "seeds_needed": None}
    told = {"study": "demo", "rules_dated": "2026-11-24", "rules_as_dated": True, "level": 0.05, "seeds": [1, 2]}
    told |= {"smallest_effects": {}}
    told["claims"] = [other, claim]
    (results / "claims.json").write_text(json.dumps(told))
    text = shown(results, monkeypatch, capsys)
    assert str(results / "figure2.svg") in text
    assert "report.html" not in text
    assert "2 claims: 1 holds, 0 fails, 0 negligible, 0 undecided, 1 not run" in text
    assert "At this scale SFT falls by much." in text and "2 (now): 1 of 1\n" in text
    assert "SFT falls, then rises. (by much; p = 0.001)" in text
    assert "It works on tools." not in text
    assert "without a new date" not in text
    (results / "claims.json").write_text(json.dumps(told | {"rules_as_dated": False}))
    assert "without a new date" in shown(results, monkeypatch, capsys)


def test_showing_a_file_that_is_no_table_is_refused(results):
    with pytest.raises(UserError, match=r"expected a table that chord tabulate wrote"):
        main(["--show", str(scores(results, "grpo"))])


HOSTILE = (
    "a | b",
    "*stars* and _lines_ and __more__",
    "`code` ``x` ~~gone~~ ~sub~",
    "two\nlines\r\nthree\u2028four",
    "<b>bold</b> <script>x</script> <https://x.y> &lt; &amp;",
    "back\\slash \\| and \\\\",
    "[link](http://x) ![image](y) [^1]",
    "# heading",
    "- item",
    "1. first",
    "> quote",
    "---",
    "$x$ ends with \\",
)


def parsed(text, kinds):
    """The tokens of a Markdown text, and the words of its lines, which hold nothing but these kinds."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert {child.type for token in tokens for child in token.children or ()} <= kinds
    return tokens, ["".join(one.content for one in token.children) for token in tokens if token.type == "inline"]


@pytest.mark.parametrize("words", HOSTILE)
def test_words_stand_in_markdown_as_they_are(words):
    cell = {"mean": 50.0, "se": 1.0, "n_seeds": 1, "n_problems": 2, "samples_per_problem": 3, "paper": None}
    column = {"benchmark": "x", "label": words, "metric": words, "paper_column": words}
    data = {"title": words, "study_title": words, "seeds": [1], "paper": {"model": words}, "columns": [column]}
    data |= {"rows": [{"arm": "a", "label": words, "note": words, "cells": {"x": cell}}], "not_built": {words: words}}
    tokens, told = parsed(rendering.markdown(data), {"text", "text_special"})
    line = " ".join(words.split())
    assert told[:2] == [line, f"{line}."]
    heads = ["arm", f"{line}, {line} (n)", f"paper: {line}, {line}"]
    assert told[2:8] == [*heads, line, "50.0 ± 1.0 (1 × 2 × 3)", "–"]
    assert told[9:] == [f"{line}: {line}.", f"{line}: not built: {line}."]
    assert [token.type for token in tokens if token.type.endswith("_open")].count("td_open") == 3
    claim = {"verdict": "undecided", "sentence": words, "evidence": words, "found": words, "reason": words}
    claim |= {"primary": True, "summary": words, "seeds_needed": 30}
    data = {"claims": [claim], "rules_dated": "2026-11-24", "rules_as_dated": True, "level": 0.05, "seeds": [1, 2]}
    kinds = {"text", "text_special", "strong_open", "strong_close"}
    _, told = parsed(rendering.verdicts_markdown(data, words), kinds)
    assert f"undecided: {line} ({line}; {line}) Paper: {line}" in told
    assert told[1].startswith(f"{line}. 1 claims: ") and told[2] == line
    assert told[-3:] == ["40", "1 of 1", line]
