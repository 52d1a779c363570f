"""A table beside that of another machine: which cells do not agree, and which primary verdicts are others."""

import json

import pytest

from chord.config.project import load
from chord.findings.agreement import pairs, told
from chord.findings.table import main
from tests.projects import ROOT
from tests.unit.results_tree import write_scores

BY_SEED = {  # of arm and machine; twelve seeds whose means differ by a few points
    "same": [40.0 + one for one in (-4, 3, 0, 2, -1, 5, -3, 1, 4, -2, -5, 0)],
    "drawn again": [41.0 + one for one in (2, -4, 5, -1, 0, 3, -5, 1, -2, 4, -3, 0)],
    "ten points more": [50.0 + one for one in (1, -2, 4, 0, -5, 3, 2, -1, -4, 5, 0, -3)],
}


def table(by_seed, version="1"):
    """A table of one column with these values by seed, by arm."""
    cells = {arm: {"mean": sum(values) / len(values), "se": 1.0, "by_seed": values} for arm, values in by_seed.items()}
    return {
        "title": "T", "study_title": "S", "paper": {}, "seeds": [],
        "columns": [{"benchmark": "sums", "label": "sums", "version": version}],
        "rows": [{"arm": arm, "label": arm.upper(), "cells": {"sums": cell}} for arm, cell in cells.items()],
    }  # fmt: skip


def written(folder, **by_seed):
    folder.mkdir(exist_ok=True)
    (folder / "table1.json").write_text(json.dumps(table(by_seed)))
    return folder / "table1.json"


def claims(folder, **verdicts):
    found = [{"id": name.replace("_", "-"), "primary": True, "verdict": verdict} for name, verdict in verdicts.items()]
    needed = dict.fromkeys(("study", "seeds", "rules_dated", "rules_as_dated", "level", "smallest_effects"))
    (folder / "claims.json").write_text(json.dumps(needed | {"claims": found}))


def test_cells_agree_unless_a_test_of_their_seeds_tells_them_apart(tmp_path):
    here = written(tmp_path / "here", grpo=BY_SEED["same"], phi=BY_SEED["same"])
    again = written(tmp_path / "again", grpo=BY_SEED["same"], phi=BY_SEED["drawn again"])
    other = written(tmp_path / "other", grpo=BY_SEED["drawn again"], phi=BY_SEED["ten points more"])
    assert [*told(here, again)][1:] == [
        "  agrees: all 2 cells are within the error bars of both, 1 of them to the last digit"
    ]
    lines = [*told(here, other)]
    assert lines[1] == "  1 of 2 cells do not agree, at 5 % for all of them together:"
    assert lines[2].startswith("  PHI, sums: 40.0 ± 1.0 here, 50.0 ± 1.0 there, p = ") and len(lines) == 3


def test_many_cells_are_corrected_for_their_number(tmp_path):
    # p of the two samples is 0.003: enough for one cell, not for thirty.
    apart = [value + 4.4 for value in BY_SEED["same"]]
    one = pairs(table({"grpo": BY_SEED["same"]}), table({"grpo": apart}))
    assert 0.05 / 30 < one[0].p < 0.01
    names = [f"arm-{number}" for number in range(30)]
    here = written(tmp_path / "here", **dict.fromkeys(names, BY_SEED["same"]))
    there = written(tmp_path / "there", **dict.fromkeys(names[1:], BY_SEED["same"]) | {names[0]: apart})
    assert "agrees: all 30 cells" in "\n".join(told(here, there))


def test_only_cells_of_both_tables_in_the_same_version_are_compared():
    here = table({"grpo": [1.0, 2.0], "phi": [1.0, 2.0]})
    assert [one.name for one in pairs(here, table({"phi": [1.0, 2.0]}))] == ["PHI, sums"]
    assert pairs(here, table({"phi": [1.0, 2.0]}, version="2")) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [([1.0], [1.0], 1.0), ([1.0], [2.0], None), ([1.0, 1.0], [2.0, 2.0], 0.0), ([1.0, 1.0], [1.0, 1.0], 1.0)],
)
def test_one_seed_and_values_without_variance_have_an_answer(ours, theirs, p):
    assert pairs(table({"grpo": ours}), table({"grpo": theirs}))[0].p == p


def test_one_seed_is_told(tmp_path):
    here, there = written(tmp_path / "here", grpo=[1.0]), written(tmp_path / "there", grpo=[2.0])
    assert [*told(here, there)][1] == "  nothing to compare: 1 cells in both, none of them with two seeds"


def test_primary_verdicts_are_compared_by_claim(tmp_path):
    here, there = (written(tmp_path / name, grpo=BY_SEED["same"]) for name in ("here", "there"))
    claims(tmp_path / "here", phi_above_grpo="holds", sft_falls="fails")
    claims(tmp_path / "there", phi_above_grpo="holds", sft_falls="fails")
    assert [*told(here, there)][-1] == "  the verdicts on the 2 primary claims are the same"
    claims(tmp_path / "there", phi_above_grpo="undecided", sft_falls="fails")
    said = "  1 of 2 primary verdicts differ: phi-above-grpo holds here, undecided there"
    assert [*told(here, there)][-1] == said


def test_tabulate_says_which_runs_are_compared(tmp_path, capsys):
    project, results = load(ROOT, "demo"), tmp_path / "results/demo"
    write_scores(results, project)
    files = {
        kind: results / f"table1.{end}" for kind, end in {"json": "json", "markdown": "md", "html": "html"}.items()
    }
    flags = [f"--{kind}={path}" for kind, path in (files | {"manifest": results / "table1.manifest.json"}).items()]
    main(["--study=demo", "--artefact=table1", f"--results={results}", f"--root={ROOT}", *flags])
    main([f"--show={files['json']}", f"--against={files['json']}"])
    printed = capsys.readouterr().out
    cells = len(project.artefacts["table1"].arms) * len(project.study.benchmarks)
    assert f"agrees: all {cells} cells are within the error bars of both, {cells} of them to the last digit" in printed
    assert printed.count(" cores") == 2
