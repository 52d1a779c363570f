"""Claims: on made-up results whose truth is known each kind of rule holds, fails, stays open, or is not run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from chord.config.paper import Claims, PaperClaim, Smallest
from chord.config.project import judged_files, load, needs
from chord.errors import UserError
from chord.findings import claims, forest, rendering
from chord.findings.claims import turned
from chord.findings.figures import Curve
from chord.findings.statistics import LEVEL
from tests.draws import at_most, shifted
from tests.unit.results_tree import write_metrics, write_scores

ROOT = Path(__file__).parents[2]
PROJECT = load(ROOT, "demo")
ABOVE = {"compare": "cells", "arm": "chord-mu", "against": ["grpo"], "direction": "above", "columns": ["AMC"]}
CURVE = {"compare": "curves", "arm": "chord-mu", "against": ["grpo"], "direction": "above", "metric": "reward"}
CURVE |= {"part": [0.9, 1]}
TURN = {"compare": "turn", "arm": "chord-mu", "metric": "reward", "shape": "falls-then-rises"}
RISE = {"compare": "rise", "arm": "chord-mu", "metric": "reward", "parts": 4}
NEAR = ABOVE | {"direction": "near"}


def project(*rules, seeds=(1, 2, 3), artefacts=("table1", "figure4"), points=None, **more):
    """The demo with these rules alone, as claims `c0`, `c1`, ...; `points`: another smallest effect of accuracy."""
    smallest = PROJECT.claims.smallest_effects
    smallest = smallest | ({"right": Smallest(size=points, reason="so")} if points else {})
    said = [
        PaperClaim.model_validate_json(json.dumps(
            {"id": f"c{i}", "sentence": f"{i}.", "paper": {"place": "Table 1", "says": "so"}, "rule": rule, **more}
        ))
        for i, rule in enumerate(rules)
    ]  # fmt: skip
    choice = PROJECT.choice.model_copy(update={"seeds": tuple(seeds), "artefacts": tuple(artefacts)})
    found = Claims(dated="2026-11-24", digest="", smallest_effects=smallest, claims=tuple(said))
    return PROJECT.model_copy(update={"claims": found, "choice": choice})


def scores(
    results, seeds=(1, 2, 3), problems=100, noise=0.3, benchmark="in-distribution", tokens=None, version="1", **arms
):
    """Scores of arms whose true shares right are given, on problems that are hard for all of them; always the same."""
    hard = np.random.default_rng(0).normal(0, 1.0, problems)
    for arm, share in arms.items():
        for seed in seeds:
            draw = np.random.default_rng([seed, *arm.encode()])
            log_odds = np.log(share / (1 - share)) + hard + draw.normal(0, noise)
            right = draw.random((problems, 4)) < (1 / (1 + np.exp(-log_odds)))[:, None]
            rows = [
                {"id": f"p{i:03d}", "outcomes": ["right" if hit else "wrong" for hit in row]}
                | ({"response_tokens": [int(n) for n in draw.poisson(tokens[arm], 4)]} if tokens else {})
                for i, row in enumerate(right)
            ]
            path = results / f"runs/{arm.replace('_', '-')}/seed-{seed}/eval/{benchmark}/scores.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            said = {"benchmark": benchmark, "version": version, "metric": "avg@4", "mean": float(right.mean())}
            path.write_text(json.dumps(said | {"problems": rows}))


def metrics(results, metric="reward", **arms):
    """metrics.jsonl of arms: a list of courses, one a seed."""
    for arm, courses in arms.items():
        for seed, course in enumerate(courses, start=1):
            path = results / f"runs/{arm.replace('_', '-')}/seed-{seed}/metrics.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [{"step": step, metric: value} for step, value in enumerate(course)]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def judged(results, *rules, **given):
    found = claims.as_data(project(*rules, **given), results)["claims"]
    return found[0] if len(rules) == 1 else found


# --- scores ------------------------------------------------------------------------------------


def test_a_difference_that_is_there_holds_fails_the_other_way_round_and_is_open_where_there_is_none(tmp_path):
    scores(tmp_path, noise=0.05, chord_mu=0.7, grpo=0.4, chord_phi=0.4)
    up, down, level = judged(tmp_path, ABOVE, ABOVE | {"direction": "below"}, ABOVE | {"arm": "chord-phi"})
    assert [up["verdict"], down["verdict"], level["verdict"]] == ["holds", "fails", "undecided"]
    assert 15 < up["difference"] == down["difference"] < 35
    assert up["interval"][0] < up["difference"] < up["interval"][1]
    assert (up["unit"], up["n_seeds"], up["n_problems"], up["seeds_needed"]) == ("points", 3, 100, None)
    assert up["p"] <= up["p_corrected"] <= LEVEL < level["p_corrected"]
    assert up["found"].startswith("three-digit sums (the paper: AMC): CHORD-µ ")
    assert (up["artefact"], up["arms"], up["evidence"]) == ("table1", ["chord-mu", "grpo"], "Table 1: so")
    assert level["reason"].startswith("p = ")
    # In units of the smallest effect, 5 points; to the right is what the claim says.
    assert up["smallest"] == 5 and up["in_smallest"][1] == pytest.approx(up["difference"] / 5, abs=1e-5)
    assert down["in_smallest"] == pytest.approx([-end for end in reversed(up["in_smallest"])])


@pytest.mark.parametrize(
    ("rule", "points", "verdict"),
    [
        (ABOVE | {"arm": "chord-phi"}, 5, "holds"),
        (ABOVE, 15, "negligible"),  # the whole interval is within the smallest effect
        (ABOVE, 0.5, "undecided"),
        (NEAR, 15, "holds"),
        (NEAR, 0.5, "undecided"),
        (NEAR | {"arm": "chord-phi"}, 5, "fails"),
    ],
)
def test_a_difference_is_judged_against_the_smallest_effect(tmp_path, rule, points, verdict):
    scores(tmp_path, noise=0.02, chord_mu=0.5, grpo=0.5, chord_phi=0.9)
    found = judged(tmp_path, rule, points=points)
    assert (found["verdict"], found["smallest"]) == (verdict, points)
    assert ("no effect as large as 15 points" in found["reason"]) is (verdict == "negligible")


def test_a_benchmark_may_have_a_smallest_effect_of_its_own_and_claims_name_it_as_the_study_does():
    said = PROJECT.claims
    assert said.smallest("right", "BFCL").size == 1 and said.smallest("right", "AMC").size == 5
    assert said.smallest("response_tokens", "BFCL").relative  # of lengths it is the same everywhere
    told = {}
    for study in ("demo", "tools"):
        known = load(ROOT, study, given={"artefacts": ["table1"]})
        rows = [claims._row(known, claim, needs(known, claim)) for claim in known.claims.claims]
        told[study] = {row["id"]: row["sentence"] for row in rows}
    assert told["demo"]["chord-mu-above-grpo"] == "CHORD-µ ends above pure RL on three-digit sums (the paper: AMC)."
    assert told["tools"]["chord-mu-above-grpo-on-tools"] == "On tool use CHORD-µ ends above pure RL, by BFCL."
    assert told["tools"]["chord-mu-above-grpo"] == "CHORD-µ ends above pure RL on AMC."
    assert "{" not in "".join(told["demo"].values())


def test_the_sentence_about_a_claim_has_what_was_found_what_the_paper_has_and_the_verdict(tmp_path):
    scores(tmp_path, noise=0.02, chord_mu=0.7, grpo=0.4, chord_phi=0.4)
    paper = {"place": "Table 1", "says": "60.8 against 52.1", "difference": 8.7}
    up, down = judged(tmp_path, ABOVE, ABOVE | {"arm": "grpo", "against": ["chord-mu"]}, paper=paper)
    found = re.sub(r"[0-9.]+ ± [0-9.]+", "X", up["summary"])
    assert found == (
        "At this scale CHORD-µ ends X points above GRPO (pure RL) on three-digit sums;"
        " the paper has it 8.7 above on AMC. Holds."
    )
    assert "GRPO (pure RL) ends" in down["summary"] and "points below CHORD-µ" in down["summary"]
    assert down["summary"].endswith("Fails: the paper's order is the reverse.")
    small = judged(tmp_path, ABOVE | {"arm": "chord-phi"}, points=30, paper=paper)
    assert small["summary"].endswith("No effect as large as 30 points.")


def test_answers_are_compared_with_the_traces_that_the_same_seed_learned_from(tmp_path):
    scores(tmp_path, tokens={"sft_light": 30}, sft_light=0.5)
    for seed, length in ((1, 20), (2, 22), (3, 21)):
        path = tmp_path / f"runs/sft-light/seed-{seed}/metrics.jsonl"
        steps = [{"step": 0}, *({"step": step, "expert_tokens": 16 * length} for step in (1, 2))]
        path.write_text("".join(json.dumps(line) + "\n" for line in steps))
    rule = {"compare": "expert-length", "arm": "sft-light", "direction": "above", "columns": ["AMC"]}
    found = judged(tmp_path, rule)
    assert (found["verdict"], found["smallest"]) == ("holds", pytest.approx(2.1))  # a tenth of the traces' 21 tokens
    assert found["difference"] == pytest.approx(9, abs=0.5)
    assert "SFT-light minus the expert's traces +" in found["found"]
    named = judged_files(project(rule))
    assert {path.rsplit("/", 1)[1] for path in named} == {"scores.json", "metrics.jsonl"}
    path.write_text('{"step": 0}\n')
    with pytest.raises(UserError, match="found no expert_tokens"):
        judged(tmp_path, rule)


def test_several_rivals_must_all_be_beaten_and_one_that_is_better_is_enough_to_fail(tmp_path):
    scores(tmp_path, noise=0.02, chord_mu=0.6, grpo=0.3, chord_phi=0.35, luffy=0.85)
    assert judged(tmp_path, ABOVE | {"against": ["grpo", "chord-phi"]})["verdict"] == "holds"
    beaten = judged(tmp_path, ABOVE | {"against": ["grpo", "luffy", "chord-phi"]})
    assert beaten["verdict"] == "fails" and beaten["difference"] < 0
    assert "CHORD-µ minus LUFFY -" in beaten["found"]


def test_a_ratio_of_lengths_is_judged_in_tokens(tmp_path):
    tokens = {"chord_phi": 30, "grpo": 20, "chord_mu": 70}
    scores(tmp_path, tokens=tokens, chord_phi=0.5, grpo=0.5, chord_mu=0.5)
    twice = ABOVE | {"arm": "chord-phi", "direction": "below", "times": 2.0, "measure": "response_tokens"}
    found = judged(tmp_path, twice)
    assert (found["verdict"], found["unit"]) == ("holds", "tokens")
    assert found["difference"] == pytest.approx(30 - 2 * 20, abs=1)
    assert "minus 2 times GRPO" in found["found"]
    assert judged(tmp_path, twice | {"arm": "chord-mu"})["verdict"] == "fails"


def test_one_seed_decides_nothing_however_large_the_difference_and_three_say_how_many_would(tmp_path):
    scores(tmp_path, noise=0.2, chord_mu=0.5, grpo=0.47)
    found = judged(tmp_path, ABOVE)
    assert found["verdict"] == "undecided"
    assert 4 <= found["seeds_needed"] <= 100
    assert f"would be decided with {found['seeds_needed']} seeds, four times in five" in found["reason"]
    scores(tmp_path, seeds=(1,), chord_mu=0.95, grpo=0.05)
    found = judged(tmp_path, ABOVE, seeds=(1,))
    assert found["verdict"] == "undecided"
    assert found["reason"] == "one seed: how much replications differ is unknown, so run two or more"
    assert (found["p"], found["p_corrected"], found["seeds_needed"], found["n_seeds"]) == (None, None, None, 1)
    assert found["se"] > 0


def test_scores_of_another_version_are_refused(tmp_path):
    scores(tmp_path, chord_mu=0.7, grpo=0.4)
    with pytest.raises(UserError, match="found version 1, expected 2 as in config/benchmarks"):
        claims.as_data(project(ABOVE), tmp_path, {"in-distribution": "2"})


def test_the_correction_counts_the_claims_that_were_run_and_no_others(tmp_path):
    scores(tmp_path, noise=0.02, chord_mu=0.7, grpo=0.3)
    nowhere = {"compare": "elsewhere", "needs": "another world"}
    alone = judged(tmp_path, ABOVE, primary=True)
    first, second, third = judged(tmp_path, ABOVE, nowhere, ABOVE | {"direction": "below"}, primary=True)
    assert alone["p_corrected"] == alone["p"] == first["p"]
    assert first["p_corrected"] == pytest.approx(2 * first["p"], abs=2e-6)  # both are rounded to six places
    assert second["p"] is None and third["p_corrected"] == pytest.approx(2 * third["p"], abs=2e-6)
    assert "for 2 primary claims" in first["reason"]
    assert "for 1 other claim" in judged(tmp_path, ABOVE)["reason"]


# --- curves ------------------------------------------------------------------------------------


def courses(*values, spread=0.002):
    """Three seeds of a course."""
    return [[value + seed * spread for value in values] for seed in (-1, 0, 1)]


def test_curves_are_compared_over_the_part_of_training_that_the_rule_names(tmp_path):
    metrics(tmp_path, chord_mu=courses(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.8, 0.9), grpo=courses(*[0.5] * 11, spread=0.003))
    end = judged(tmp_path, CURVE)
    assert (end["verdict"], end["unit"], end["n_problems"], end["artefact"]) == ("holds", "reward", None, None)
    assert end["difference"] == pytest.approx(0.85 - 0.5)  # steps 9 and 10 of 10
    assert judged(tmp_path, CURVE | {"part": [0, 0.5]})["verdict"] == "fails"
    # the mean over all steps is 1.7 / 11
    assert judged(tmp_path, CURVE | {"part": [0, 1]})["difference"] == pytest.approx(1.7 / 11 - 0.5, abs=1e-6)
    # a part between two points, here steps 9 and 10, has the last one before its end
    assert judged(tmp_path, CURVE | {"part": [0.93, 0.97]})["difference"] == pytest.approx(0.8 - 0.5)


@pytest.mark.parametrize(
    ("course", "falls", "rises"),
    [
        ((0.40, 0.05, 0.10, 0.70), "holds", "fails"),
        ((0.1, 0.5, 0.9, 0.3), "fails", "holds"),
        ((0.1, 0.2, 0.4, 0.8), "fails", "fails"),
        ((0.8, 0.6, 0.3, 0.1), "fails", "fails"),
    ],
)
def test_a_curve_that_turns_is_told_from_one_that_does_not(tmp_path, course, falls, rises):
    metrics(tmp_path, chord_mu=courses(*course))
    assert judged(tmp_path, TURN)["verdict"] == falls
    assert judged(tmp_path, TURN | {"shape": "rises-then-falls"})["verdict"] == rises


def test_a_curve_may_have_to_end_beyond_its_start(tmp_path):
    metrics(tmp_path, chord_mu=courses(0.4, 0.05, 0.1, 0.3), grpo=courses(0.4, 0.05, 0.1, 0.6))
    past = TURN | {"end": "past-start"}
    found = [judged(tmp_path, rule | {"arm": arm}) for rule in (TURN, past) for arm in ("chord-mu", "grpo")]
    assert [one["verdict"] for one in found] == ["holds", "holds", "fails", "holds"]
    assert "falls by 0.350" in found[2]["found"] and "ends 0.100 ± 0.000 below its start" in found[2]["summary"]


def test_the_turn_is_told_in_numbers(tmp_path):
    metrics(tmp_path, chord_mu=[[0.40, 0.05, 0.10, 0.70], [0.38, 0.04, 0.12, 0.72], [0.39, 0.06, 0.08, 0.74]])
    found = judged(tmp_path, TURN)
    # means 0.39, 0.05, 0.1, 0.72; the less certain leg is the fall by 0.35, 0.34, 0.33
    assert found["difference"] == pytest.approx(0.34)
    assert "0.39 at step 0, 0.05 at step 1, 0.72 at step 3; falls by 0.340" in found["found"]


@pytest.mark.numbers
def test_noise_is_seldom_taken_for_a_turn():
    said, rng = project(TURN).claims, np.random.default_rng(shifted(11))
    curves = (Curve(np.arange(60.0), rng.normal(0.5, 0.1, (3, 60))) for _ in range(200))
    found = [turned(said.claims[0].rule, said.smallest("reward", None), curve, "") for curve in curves]
    # looking for the lowest point in the very values that it is judged by holds for a third of such curves
    assert at_most(sum(one.p_holds <= LEVEL for one in found), 200, LEVEL)


def test_a_curve_that_never_falls_by_the_margin_rises_throughout(tmp_path):
    metrics(tmp_path, chord_mu=courses(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    found = judged(tmp_path, RISE)
    assert found["verdict"] == "holds"
    assert "0.15, 0.35, 0.55, 0.75" in found["found"]
    metrics(tmp_path, chord_mu=courses(0.1, 0.2, 0.3, 0.4, 0.2, 0.1, 0.7, 0.8))
    assert judged(tmp_path, RISE)["verdict"] == "fails"


def test_curves_without_values_or_with_too_few_points_are_not_run(tmp_path):
    metrics(tmp_path, chord_mu=courses(0.1, 0.2))
    assert judged(tmp_path, TURN)["reason"] == "CHORD-µ has only 2 points, expected at least three"
    assert "has only 2 points, expected at least 4" in judged(tmp_path, RISE)["reason"]
    for seed in (1, 2, 3):
        (tmp_path / f"runs/chord-mu/seed-{seed}/metrics.jsonl").write_text('{"step": 0, "reward": null}\n')
    found = judged(tmp_path, TURN)
    assert (found["verdict"], found["reason"]) == ("not run", "no step of chord-mu has a value of reward")


# --- what is not run ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "more", "reason"),
    [
        ({"compare": "elsewhere", "needs": "a judge"}, {}, "not run at this scale: it takes a judge"),
        (ABOVE | {"columns": ["BFCL"]}, {}, "study demo has no benchmark beside BFCL"),
        (ABOVE | {"columns": ["BFCL", "MATH-500"]}, {}, "study demo has no benchmark beside BFCL or MATH-500"),
        (ABOVE | {"arm": "focal"}, {}, "no table that was chosen has arm focal"),
        (TURN | {"arm": "focal"}, {}, "no table or figure that was chosen has arm focal"),
        (TURN | {"arm": "original"}, {}, "arm original: not trained, so without a curve"),
        (ABOVE, {"studies": ["small"]}, "the claim is about study small"),
        (ABOVE, {"artefacts": ("figure4",)}, "no table that was chosen has arms chord-mu, grpo"),
    ],
)
def test_what_is_not_run_says_what_is_missing_and_reads_nothing(tmp_path, rule, more, reason):
    found = judged(tmp_path, rule, **more)
    assert (found["verdict"], found["reason"]) == ("not run", reason)
    assert found["difference"] is None and found["p"] is None
    assert judged_files(project(rule, **more)) == []


def test_the_first_column_that_the_study_has_is_judged(tmp_path):
    scores(tmp_path, benchmark="other-skill", chord_mu=0.7, grpo=0.4)
    found = judged(tmp_path, ABOVE | {"columns": ["BFCL", "MMLU-Pro", "AMC"]})
    assert found["found"].startswith("word reversal (the paper: MMLU-Pro)")


def test_the_files_that_are_named_are_those_that_are_read(tmp_path):
    whole = PROJECT.model_copy(update={"choice": PROJECT.choice.model_copy(update={"seeds": (1, 2)})})
    named = judged_files(whole)
    assert len(named) == len(set(named)) > 50
    write_scores(tmp_path, whole)
    write_metrics(tmp_path, whole)
    for path in [path for path in tmp_path.glob("runs/**/*.json*") if path.is_file()]:
        if path.relative_to(tmp_path).as_posix() not in named:
            path.unlink()
    found = claims.as_data(whole, tmp_path)["claims"]
    assert sum(claim["verdict"] != "not run" for claim in found) > 25
    (tmp_path / named[-1]).unlink()
    with pytest.raises(UserError, match="found no such file"):
        claims.as_data(whole, tmp_path)


# --- the rules that stand in config/ -----------------------------------------------------------


def test_the_rules_are_those_of_their_date():
    said = PROJECT.claims
    assert said.as_dated, f"a rule was changed: give it a new date, and the digest {said.rules_digest}"
    assert said.dated >= "2026-11-24"


def test_a_changed_rule_changes_the_digest_and_a_changed_sentence_does_not():
    first, *others = PROJECT.claims.claims
    worded = first.model_copy(update={"sentence": "Another."})
    moved = first.model_copy(update={"rule": first.rule.model_copy(update={"times": 2.0})})
    primary = first.model_copy(update={"primary": True})
    with_first = [PROJECT.claims.model_copy(update={"claims": (one, *others)}) for one in (worded, moved, primary)]
    assert [one.as_dated for one in with_first] == [True, False, False]
    for change, same in ({"reason": "Another."}, True), ({"size": 7.0}, False):
        right = PROJECT.claims.smallest_effects["right"].model_copy(update=change)
        sizes = PROJECT.claims.smallest_effects | {"right": right}
        assert PROJECT.claims.model_copy(update={"smallest_effects": sizes}).as_dated is same
    told = rendering.rule({"rules_dated": "2026-11-24", "rules_as_dated": False, "level": 0.05})
    assert "no longer those of that date" in told


def test_the_verb_writes_every_claim_once_in_the_shape_that_pages_read(tmp_path, capsys):
    results = tmp_path / "demo"
    chosen = load(ROOT, "demo", (1, 2), {"artefacts": ["table1", "figure4"]})
    write_scores(results, chosen)
    write_metrics(results, chosen)
    endings = {"json": "json", "markdown": "md", "html": "html", "svg": "svg", "png": "png"}
    files = [f"--{kind}={results}/claims.{end}" for kind, end in endings.items()]
    given = ["--study", "demo", "--seeds", "1", "2", "--artefacts", "table1", "figure4", f"--results={results}"]
    claims.main([*given, f"--root={ROOT}", *files])
    found = json.loads((results / "claims.json").read_text())
    assert (found["study"], found["rules_dated"]) == ("demo", PROJECT.claims.dated)
    assert found["smallest_effects"]["right"]["size"] == 5
    assert found["correction"] == {"primary": "holm", "others": "benjamini-hochberg"}
    assert [claim["id"] for claim in found["claims"]] == [claim.id for claim in PROJECT.claims.claims]
    keys = {"id", "sentence", "evidence", "verdict", "reason", "found", "difference", "se", "interval", "p", "smallest",
            "in_smallest", "side", "summary", "primary", "p_corrected", "n_seeds", "n_problems", "seeds_needed", "unit",
            "artefact", "arms"}  # fmt: skip
    assert all(claim.keys() == keys for claim in found["claims"])
    counts = rendering.counted(found["claims"])
    assert counts in (results / "claims.md").read_text() and counts in (results / "claims.html").read_text()
    assert (results / "claims.png").read_bytes()[:4] == b"\x89PNG"
    claims.main(["--show", str(results / "claims.json")])
    shown = capsys.readouterr().out
    assert counts in shown and "What more seeds would decide" in shown
    assert " ".join(rendering.summaries(found)[-1].split()) in " ".join(shown.split())
    claims.main(["--digest", "--root", str(ROOT)])
    assert capsys.readouterr().out.strip() == PROJECT.claims.digest
    with pytest.raises(UserError, match=r"found no --study, --results, --json"):
        claims.main([])


def forest_of(*effects, verdict="holds", primary=False):
    """A claims.json whose claims have these effects (low, mean, high), in units of their smallest effect."""
    claim = {"sentence": "CHORD ends above all.", "side": "above", "difference": 1.0, "se": 0.5, "unit": "points"}
    told = [claim | {"verdict": verdict, "primary": primary, "in_smallest": effect} for effect in effects]
    return {"study": "demo", "claims": told}


def test_the_forest_plot_shows_each_claim_that_was_run_and_where_an_interval_goes_on(tmp_path):
    data = forest_of([0.5, 1, 2], [-9, 3, 9], [7, 8, 9])
    data["claims"] += forest_of([-1, 0, 1], verdict="undecided", primary=True)["claims"]
    data["claims"] += forest_of(None, verdict="not run")["claims"]
    ax, right = forest.compose(data).axes
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["Primary claims", "CHORD ends above all", "Other claims", *["CHORD ends above all"] * 3]
    assert [label.get_text() for label in right.get_yticklabels()][3] == "+1.0 ± 0.5 points\nholds"
    drawn = {}
    for line in ax.lines[1:]:
        drawn.setdefault(float(line.get_ydata()[0]), []).append(
            (line.get_marker(), [float(x) for x in line.get_xdata()])
        )
    assert drawn[1] == [("None", [-1, 1]), ("o", [0])]
    assert drawn[3] == [("None", [0.5, 2]), ("o", [1])]
    assert drawn[4] == [("None", [-6, 6]), ("<", [-6]), (">", [6]), ("o", [3])]
    assert drawn[5] == [(">", [6])]  # all of it is beyond the axis
    assert forest.draw(data) == forest.draw(data)
    assert "No claim was run" in forest.compose(forest_of(None)).axes[0].get_yticklabels()[0].get_text()


def test_more_seeds_decide_what_they_were_found_to_be_needed_for():
    needed = {"holds": None, "undecided": 30, "not run": None}
    told = [{"sentence": f"{one}.", "verdict": one, "seeds_needed": seeds} for one, seeds in needed.items()]
    told.append({"sentence": "Never.", "verdict": "undecided", "seeds_needed": None})
    rows = rendering.by_seeds({"seeds": list(range(12)), "claims": told})
    assert rows[:3] == [("12 (now)", "1 of 3", ""), ("20", "1 of 3", "–"), ("40", "2 of 3", "undecided")]
    assert rows[-1] == ("no number", "1", "Never")


def test_every_claim_with_a_rule_is_judged_where_a_study_builds_all_that_it_can() -> None:
    judged: dict[str, set[str]] = {}
    for name in ("demo", "math", "tools"):
        project = load(ROOT, name)
        built = [one for one in project.artefacts if not project.why_not(one)]
        project = load(ROOT, name, given={"artefacts": built})
        judged[name] = {claim.id for claim in project.claims.claims if not needs(project, claim).lacking}
    ruled = {claim.id for claim in load(ROOT, "demo").claims.claims if claim.rule.compare != "elsewhere"}
    assert ruled == set().union(*judged.values())
    assert [claim.id for claim in PROJECT.claims.claims if claim.primary] == [
        "chord-phi-above-grpo", "chord-phi-above-sft-best-rl", "sft-falls-then-rises",
        "chord-mu-reward-falls-then-rises",
    ]  # fmt: skip
    assert {"weak-model", "base-start-rises", "more-sft-data-then-rl"} <= judged["demo"] & judged["math"]
    assert "weaker-expert-no-loss" in judged["demo"] & judged["tools"] and "weak-model" not in judged["tools"]
