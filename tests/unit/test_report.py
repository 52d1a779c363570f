"""The page over a whole study, and the captions of Snakemake's own report."""

import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from docutils.core import publish_parts

from chord.audit import report
from chord.config.project import load
from chord.errors import UserError
from chord.findings import claims, figures, forest, rendering, table
from chord.findings.figures import window
from tests.unit.results_tree import write_history, write_metrics, write_scores

ROOT = Path(__file__).parents[2]
CHOSEN = ("table1", "figure2", "figure3", "figure4", "figure8")
PROJECT = load(ROOT, "demo", (1, 2), {"artefacts": list(CHOSEN)})
CAPTIONS = ROOT / "workflow" / "report"


def given(results, *more):
    return ["--study", "demo", "--seeds", "1", "2", "--results", str(results), "--root", str(ROOT), *more]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results") / "demo"
    write_scores(results, PROJECT)
    write_metrics(results, PROJECT)
    write_history(results, PROJECT)
    for name in CHOSEN:
        verb, endings = (table, ("json", "markdown", "html")) if name == "table1" else (figures, ("json", "svg", "png"))
        files = [part for ending in endings for part in (f"--{ending}", str(results / f"{name}.{ending}"))]
        verb.main(given(results, "--artefact", name, *files))
    endings = ("json", "markdown", "html", "svg", "png")
    files = [part for name in endings for part in (f"--{name}", str(results / f"claims.{name}"))]
    claims.main(given(results, "--artefacts", *CHOSEN, *files))
    return results


@pytest.fixture
def results(made, tmp_path):
    shutil.copytree(made, tmp_path / "demo")
    return tmp_path / "demo"


def written(results):
    html = results / "report.html"
    report.main(given(results, "--artefacts", *CHOSEN, "--html", str(html)))
    return html.read_text()


@pytest.fixture(scope="module")
def text(made, tmp_path_factory):
    """The page as a reader sees it, with its tags."""
    results = shutil.copytree(made, tmp_path_factory.mktemp("page") / "demo")
    return unescape(written(results)).replace("\N{NO-BREAK SPACE}", " ")


class Page(HTMLParser):
    """Tags and attributes of a page, what it would load, its ids, and whether its tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.tags, self.attributes = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes += found
        self.loads += [found[key] for key in ("src", "href", "xlink:href") if key in found]
        self.loads += [match for value in found.values() if value for match in re.findall(r"url\(([^)]*)\)", value)]
        self.ids += [found["id"]] if "id" in found else []
        self.open += [tag] if tag not in ("meta", "br") else []

    def handle_endtag(self, tag):
        if tag not in ("meta", "br"):
            assert self.open.pop() == tag


# --- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table1.html", "claims.html", "report.html"])
def test_a_page_is_whole_and_refers_to_nothing_but_itself(results, name):
    written(results)
    found = Page((results / name).read_text())
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert bool(found.loads) == (name == "report.html")  # its drawings refer to their own parts
    assert all(each.startswith("#") and each[1:] in found.ids for each in found.loads)
    assert not {"link", "iframe", "object", "img"} & set(found.tags)
    assert "url(" not in rendering.WEB.joinpath("page.css").read_text()


def test_words_of_config_cannot_break_out_of_a_page(results):
    words = """<script>alert(1)</script>"' onload=x"""
    table, claims = (json.loads((results / f"{name}.json").read_text()) for name in ("table1", "claims"))
    table["rows"][0]["label"] = table["columns"][0]["label"] = table["title"] = table["paper"]["model"] = words
    claims["claims"] = [
        one | dict.fromkeys(("sentence", "found", "reason", "evidence"), words) for one in claims["claims"]
    ]
    (results / "table1.json").write_text(json.dumps(table))
    (results / "claims.json").write_text(json.dumps(claims))
    pages = (rendering.table_page(table), 0), (rendering.verdicts_page(claims, words), 0), (written(results), 4)
    for html, scripts in pages:
        found = Page(html)
        assert "alert(1)" in html and found.open == []
        assert found.tags.count("script") == scripts and "onload" not in found.attributes


def test_a_name_that_a_template_is_not_given_raises():
    with pytest.raises(jinja2.UndefinedError, match="'counts' is undefined"):
        rendering.rendered("claims.html", title="", study="", rule="", claims=[])


def test_the_page_shows_every_chosen_artefact_and_verdict(text, made):
    assert text.count("<figure ") == 5  # figure 3 is a scheme without curves; the claims have a forest plot
    for name in CHOSEN:
        assert PROJECT.artefacts[name].title in text
    judged = json.loads((made / "claims.json").read_text())["claims"]
    assert {claim["verdict"] for claim in judged} >= {"holds", "undecided", "not run"}
    for claim in judged:
        assert claim["sentence"] in text and claim["reason"] in text
        assert not claim["primary"] or claim["summary"] in text
    assert "What more seeds would decide" in text and forest.CAPTION in text
    assert all(one.reason in text for one in PROJECT.claims.smallest_effects.values())
    assert "Its words give no threshold to compute, so there is no verdict." not in text


def test_the_page_says_what_ran_where_and_for_how_long(text):
    runs = [name for name in report.used_arms(PROJECT) if PROJECT.arms[name].recipe]
    assert "mu-0.5" not in runs  # only figure 7 needs it
    assert f"{2 * len(runs) + 1} training runs" in text
    # 101 timed steps of 0.6 s are 60.6 s; the base model's manifest says 60 s, so the steps count
    assert "<td>base model</td><td>1 of 1</td><td>100</td><td>1 min 01 s</td>" in text
    assert "<td>sample 67 %, learn 25 %, validate 5 %</td>" in text


def test_the_page_gives_the_values_of_every_arm_and_lists_what_was_not_run(text):
    mu = PROJECT.arms["chord-mu"].recipe.mu
    assert f"{mu.peak:g} → {mu.valley:g} over {mu.decay_steps} steps" in text
    assert "<td>p(1-p)</td>" in text
    listed = text[text.index('<h2 id="not-run">') :]
    columns = "AIME25, BFCL live, BFCL non-live, BFCL"
    assert f"Columns of the paper's Table 1 without a benchmark here: {columns}." in listed
    assert "fixed µ = 0.5" in listed and "figure7" in listed


def test_a_run_without_a_manifest_is_said_to_have_no_record(results):
    (results / "runs" / "grpo" / "seed-2" / "train.manifest.json").unlink()
    text = written(results).replace("\N{NO-BREAK SPACE}", " ")
    assert "<td>GRPO (pure RL)</td><td>1 of 2</td>" in text
    assert "<td>grpo/seed-2</td><td>no record</td>" in text


def test_the_same_results_give_the_same_page(results):
    assert written(results) == written(results)


DAMAGE = {
    "table1.json": lambda path: path.unlink(),
    "figure2.json": lambda path: path.write_text("{}"),
    "figure4.json": lambda path: path.write_text(path.read_text()[:100]),
    "figure4.svg": lambda path: path.write_text(path.read_text()[:1000]),
    "figure8.svg": lambda path: path.unlink(),
    "claims.svg": lambda path: path.unlink(),
    "runs/grpo/seed-1/train.manifest.json": lambda path: path.write_text("{}"),
    "runs/grpo/seed-1/timing.jsonl": lambda path: path.write_text('{"step": 1'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_part_that_is_missing_or_damaged_is_named_and_no_page_is_written(results, name):
    DAMAGE[name](results / name)
    with pytest.raises(UserError) as refusal:
        written(results)
    assert str(results / name) in str(refusal.value)
    assert "expected" in str(refusal.value) or "train again" in str(refusal.value)
    assert not list(results.glob("report*"))


# --- captions of Snakemake's report -------------------------------------------------------------


def rendered(name, **wildcards):
    """A caption as Snakemake renders it: Jinja with strict names, then reStructuredText."""
    snakemake = {"wildcards": wildcards, "params": {"seeds": [1, 2, 3]}, "config": {"study": "demo"}}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    text = environment.from_string((CAPTIONS / name).read_text()).render(snakemake=snakemake)
    body = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["html_body"]
    return " ".join(re.sub(r"<[^>]+>", "", body).split())


@pytest.mark.parametrize("name", ["workflow.rst", "table.rst", "report.rst"])
def test_captions_are_whole_text(name):
    assert len(rendered(name, table="table1")) > 200


FIGURES = [name for name, artefact in load(ROOT, "demo").artefacts.items() if artefact.kind == "figure"]


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_has_a_caption_of_its_own_that_names_its_smoothing(name):
    text = rendered("figure.rst", figure=name)
    common = rendered("figure.rst", figure="another")
    assert text != common.replace("another.json", f"{name}.json")
    windows = {window(panel.smooth_steps) for panel in load(ROOT, "demo").artefacts[name].panels} - {1}
    assert {int(found) for found in re.findall(r"moving mean over (\d+)", text)} == windows
    assert "seeds 1, 2, 3" in text
    assert f"{name}.json" in text
