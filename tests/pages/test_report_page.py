"""The page of a real small study in a real Chromium: what a reader does, and what a model cannot do to it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chord.audit import report
from chord.records import Answer, read_lines, write_lines
from tests.mini_study import SEEDS
from tests.pages.browser import CHROMIUM, Page, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
CELL = 'button[data-cell="grpo/in-distribution"]'
CHART = '[data-figure="figure9"] .chart'
HOSTILE = [
    "</script><img src=x onerror=window.hacked=1>",
    '"><script>window.hacked=2</script>',
    "<dialog open><h1>nothing to see</h1></dialog>&lt;b&gt; \u2028 \U0001f642 \x00",
    "${window.hacked=3}`+'\\",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page, mini_study: Path) -> Iterator[Page]:
    """The page, freshly opened; whatever the test does, the console must stay empty and nothing may be asked for."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.media("light")
    browser.open(mini_study / "results/demo/report.html")
    yield browser
    assert browser.complaints == []
    assert {url.split("#")[0] for url in browser.requests} == {(mini_study / "results/demo/report.html").as_uri()}


def opened(page: Page, selector: str = CELL) -> None:
    page.click(selector)
    page.wait("document.querySelector('dialog[open] .layers')")


def told(page: Page, selector: str = "dialog") -> str:
    """The words of an element as they are seen."""
    return page.run(f"document.querySelector('{selector}').innerText")


def all_of(page: Page, selector: str, what: str = "innerText") -> list[str]:
    return page.run(f"[...document.querySelectorAll('{selector}')].map((one) => one.{what})")


def unfold(page: Page) -> None:
    page.run("[...document.querySelectorAll('dialog details')].forEach((one) => { one.open = true; })")


def to_answers(page: Page) -> None:
    page.run("document.querySelectorAll('dialog [role=tab]')[1].click()")
    page.wait("document.querySelector('dialog .answers')")


def test_a_click_on_a_number_shows_its_chain_down_to_the_data(page: Page, mini_study: Path) -> None:
    opened(page)
    text = told(page)
    cell = json.loads((mini_study / "results/demo/table1.json").read_text())["rows"][2]["cells"]["in-distribution"]
    assert f"{cell['mean']:.1f} ± {cell['se']:.1f}" in text
    run = "results/demo/runs/grpo/seed-1"
    for name in (f"{run}/eval/in-distribution/scores.json", f"{run}/run.json", "results/demo/data/problems/base.jsonl"):
        assert name in text
    manifest = json.loads((mini_study / f"{run}/train.manifest.json").read_text())
    assert manifest["outputs"]["model"]["sha256"][:12] in text
    links = int(re.search(r"All (\d+) links hold", text)[1])
    assert links == page.run("document.querySelectorAll('dialog .layers details').length") > 10
    assert manifest["code"]["digest"] not in text  # folded, until asked for
    unfold(page)
    assert manifest["code"]["digest"] in told(page) and manifest["git"]["commit"][:12] in told(page)


def test_the_answers_of_a_cell_are_shown_with_their_grades_and_can_be_chosen_by_grade_and_seed(
    page: Page, mini_study: Path
) -> None:
    folder = mini_study / "results/demo/runs/grpo/seed-2/eval/in-distribution"
    scores = json.loads((folder / "scores.json").read_text())
    first = read_lines(folder / "answers.jsonl", Answer)[0]
    opened(page)
    to_answers(page)
    page.click('dialog [data-value="1"]')  # the second seed
    text = told(page)
    assert "32 of 32 answers of this seed" in text  # 8 problems x 4 samples
    assert first.prompt in text and first.text in text
    shown = all_of(page, "dialog .answer .chip")
    grades = {name: shown.count(name) for name in set(shown)}
    assert grades == {name: count for name, count in scores["outcomes"].items() if count}
    grade = min(grades, key=grades.get)
    page.click(f'dialog [data-value="{grade}"]')
    assert all_of(page, "dialog .answer .chip") == [grade] * grades[grade]


def test_what_a_model_wrote_is_text_whatever_it_is(browser: Page, mini_copy: Path, tmp_path: Path) -> None:
    results = mini_copy / "results/demo"
    for seed in SEEDS:
        path = results / f"runs/grpo/seed-{seed}/eval/in-distribution/answers.jsonl"
        answers = read_lines(path, Answer)
        changed = [Answer(**vars(one) | {"text": HOSTILE[i % 4]}) for i, one in enumerate(answers)]
        path.write_text(write_lines(changed), encoding="utf-8")
    html = tmp_path / "hostile.html"
    given = ["--study", "demo", "--results", str(results), "--root", str(mini_copy), "--html", str(html)]
    report.main(given)
    assert "onerror" not in html.read_text(encoding="utf-8")
    browser.complaints.clear()
    browser.open(html)
    opened(browser)
    assert "links are broken" in told(browser) and "altered" in told(
        browser
    )  # the answers are no longer those that were made
    to_answers(browser)
    assert all_of(browser, "dialog .answer pre", "textContent")[:4] == HOSTILE
    assert browser.run("[window.hacked ?? null, document.querySelectorAll('img').length]") == [None, 0]
    assert browser.complaints == []


def test_the_keyboard_reaches_a_number_opens_it_moves_between_its_parts_and_closes_it(page: Page) -> None:
    for _ in range(60):
        page.press("Tab")
        if page.run(f"document.activeElement.matches('{CELL}')"):
            break
    assert page.run(f"document.activeElement.matches('{CELL}')")
    page.press("Enter")
    page.wait("document.querySelector('dialog[open] .layers')")
    assert page.run("document.querySelector('dialog').contains(document.activeElement)")
    assert page.run(
        "document.getElementById(document.querySelector('dialog').getAttribute('aria-labelledby')).innerText"
    )
    page.run("document.querySelector('dialog [role=tab]').focus()")
    page.press("ArrowRight")
    page.wait("document.querySelector('dialog .answers')")
    page.press("Escape")
    page.wait("!document.querySelector('dialog[open]')")
    assert page.run(f"document.activeElement.matches('{CELL}')")


def test_hovering_reads_the_values_of_the_nearest_step(page: Page, mini_study: Path) -> None:
    curve = json.loads((mini_study / "results/demo/figure9.json").read_text())["panels"][0]["curves"][0]
    x, y = page.middle(CHART)
    width = page.run(f"document.querySelector('{CHART}').getBoundingClientRect().width")
    page.mouse("mouseMoved", x - width / 2 + 60, y)  # just right of the axis: the first point
    assert told(page, ".readout").endswith(f"at training step {curve['x'][0]:g}")
    assert float(told(page, ".legend .value").split(" ")[0]) == pytest.approx(curve["mean"][0], abs=0.002)
    page.mouse("mouseMoved", x, 5)
    assert "at the end" in told(page, ".readout")


def ticks(page: Page) -> list[float]:
    """The numbers below the axis."""
    texts = all_of(page, f"{CHART} .grid [text-anchor=middle]", "textContent")
    return [float(text) for text in texts[:-1]]  # the last is the name of the axis


def test_a_drag_zooms_the_wheel_and_keys_do_after_a_click_and_reset_shows_all(page: Page) -> None:
    whole = ticks(page)
    assert (whole[0], whole[-1]) == (1, 4)
    x, y = page.middle(CHART)
    page.mouse("mousePressed", x - 50, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 50, y, button="left")
    page.mouse("mouseReleased", x + 50, y, button="left", clickCount=1)
    near = ticks(page)
    assert 2 < near[0] < near[-1] < 3
    page.press("0")
    assert ticks(page) == whole
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    page.wait(f"document.querySelector('{CHART} .grid text[text-anchor=middle]').textContent !== '1'")
    assert ticks(page)[0] > 1
    page.press("Escape")
    assert ticks(page) == whole
    page.press("+")
    assert ticks(page)[-1] < 4
    page.run("[...document.querySelectorAll('.tools button')].find((one) => one.innerText === 'reset').click()")
    assert ticks(page) == whole
    page.press("ArrowRight")
    assert "at training step" in told(page, ".readout")


def test_the_legend_hides_an_arm_and_brings_it_back(page: Page) -> None:
    count = f"document.querySelectorAll('{CHART} .curve').length"
    assert page.run(count) == 1
    page.click(".legend button")
    assert (page.run(count), page.run("document.querySelector('.legend button').ariaPressed")) == (0, "false")
    page.click(".legend button")
    assert page.run(count) == 1


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_sticks_out_of_a_narrow_window(page: Page, width: int) -> None:
    page.size(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width
    opened(page)
    unfold(page)
    left, right = page.run(
        "(({left, right}) => [left, right])(document.querySelector('dialog').getBoundingClientRect())"
    )
    assert 0 <= left < right <= width
    body = "document.querySelector('dialog .body')"
    assert page.run(f"{body}.scrollWidth <= {body}.clientWidth")


CONTRAST = """(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const found = parts(getComputedStyle(one).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const one of document.querySelectorAll('body *')) {
    const words = [...one.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    const hidden = one.closest('script, style, template, svg, .still') || !one.getClientRects().length;
    if (!words.length || hidden) continue;
    const pair = [light(parts(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) poor.push([one.tagName, words[0].textContent.trim().slice(0, 40), ratio]);
  }
  return poor;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_background(page: Page, scheme: str) -> None:
    page.media(scheme)
    opened(page)
    assert page.run(CONTRAST) == []
    to_answers(page)
    assert page.run(CONTRAST) == []


def test_the_button_turns_the_page_dark_and_light_against_the_system(page: Page) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.run(back)
    page.click("#theme")
    assert page.run(back) != light
    page.media("dark")
    assert page.run(back) != light
    page.click("#theme")
    assert page.run(back) == light
    page.run("localStorage.clear()")


def test_printed_it_has_the_tables_and_figures_and_none_of_the_controls(page: Page) -> None:
    page.media("light", kind="print")
    seen = "(selector) => [...document.querySelectorAll(selector)].filter((one) => one.getClientRects().length).length"
    assert page.run(f"({seen})('table.numbers')") == 1 and page.run(f"({seen})('.chart')") == 1
    assert page.run(f"({seen})('nav, #theme, .tools, dialog')") == 0
    assert page.pdf().startswith(b"%PDF")


def test_without_script_the_tables_and_drawings_are_there(browser: Page, mini_study: Path, tmp_path: Path) -> None:
    text = (mini_study / "results/demo/report.html").read_text(encoding="utf-8")
    still = tmp_path / "still.html"
    still.write_text(re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL), encoding="utf-8")
    browser.call("Page.navigate", url=still.as_uri())
    browser.wait(
        "document.readyState === 'complete' && document.querySelector('.still svg').getClientRects().length === 1"
    )
    seen = browser.run("document.body.innerText")
    assert "GRPO (pure RL)" in seen and "n = 2 × 8 × 4" in seen
    assert browser.run("document.querySelector('#theme').getClientRects().length") == 0
