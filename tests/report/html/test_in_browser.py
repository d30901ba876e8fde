"""The report in a real Chromium: what can be done with it by mouse and keyboard, how it looks, and what it refuses.

Skipped where playwright or Chromium is absent: `make test-browser` brings the one, and Debian's package the other.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.report.html import write_agreement
from tests.report.html import parts

CHROMIUM = os.environ.get("SPRI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: make test-browser"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open the report of runs; at the end nothing may have been said on the console, nor asked of the network."""
    troubles, contexts = [], []

    def open_report(*runs, width=1280, scheme="light", path=None, **settings):
        path = path or spri.write_report(runs, tmp_path / "out.html", **settings).path
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("request", lambda request: troubles.extend([request.url] * (request.url[:5] != "file:")))
        page.goto(path.as_uri())
        if page.query_selector("#examples"):
            page.wait_for_selector("body[data-ready]", timeout=20_000)
        return page

    open_report.troubles = troubles
    yield open_report
    for context in contexts:
        context.close()
    assert not troubles


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "run": parts.small_run(folder / "a"),
        "other": parts.small_run(folder / "b", shift=1),
        "tuning": parts.tuning_run(folder / "t"),
    }


def ids(page):
    return page.locator("#rows tbody button.open").all_inner_texts()


def focused(page):
    return page.evaluate("document.activeElement.textContent.trim()")


def test_list_shows_every_example(opened, runs):
    page = opened(runs["run"])
    assert ids(page) == [f"q{n}" for n in range(1, 9)]
    assert page.locator("#count").inner_text() == "8 examples"
    heads = page.locator("#rows thead th").all_inner_texts()
    assert heads == ["example", "group", "principles", "response", "alignment", "harmful", "people", "answer"]
    assert page.locator("#rows tbody tr").nth(1).inner_text().split()[:8] == (
        ["q2", "north", "4", "accepted", "3›4", "accepted", "2", "0"]
    )


def test_filters_narrow_the_list(opened, runs):
    page = opened(runs["run"])
    page.select_option("#group", "north")
    assert ids(page) == ["q2", "q4", "q6"] and page.locator("#count").inner_text() == "3 of 8 examples"
    page.select_option("#group", "")
    page.select_option("#stop", "response exhausted")
    assert ids(page) == ["q8"]
    page.select_option("#stop", "")
    page.select_option("#state", "failed")
    assert ids(page) == ["q7"]
    page.select_option("#state", "")
    page.select_option("#criterion", "alignment")
    page.fill("#from", "4")
    assert ids(page) == ["q4", "q5"]
    page.fill("#to", "4")
    assert ids(page) == ["q4"]


def test_search_looks_into_every_text(opened, runs):
    page = opened(runs["run"])
    for words, found in {
        "name bridge q3": ["q3"],
        "clear. Q5": ["q5"],
        "CallError": ["q7"],
        "Draft 2 of": ["q8"],
        "why alignment of q4": ["q4"],
        "nowhere": [],
    }.items():
        page.fill("#search", words)
        assert ids(page) == found, words


def test_columns_sort_and_missing_numbers_stand_last(opened, runs):
    page = opened(runs["run"])
    column = page.locator("#rows thead button", has_text="alignment")
    column.click()
    assert ids(page) == ["q1", "q6", "q2", "q3", "q4", "q5", "q7", "q8"]
    assert page.locator("#rows th[aria-sort=ascending]").inner_text() == "alignment"
    page.keyboard.press("Enter")
    assert ids(page)[:2] == ["q5", "q4"] and ids(page)[-2:] == ["q7", "q8"]
    assert page.locator("#rows th[aria-sort=descending]").count() == 1


def test_example_opens_and_closes_by_keyboard(opened, runs):
    page = opened(runs["run"])
    page.keyboard.press("/")
    page.keyboard.type("bridge")
    page.keyboard.press("ArrowDown")
    assert focused(page) == "q1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    assert dialog.locator("#example-title").inner_text() == "q2 · north"
    page.keyboard.press("ArrowRight")
    assert dialog.locator("#example-title").inner_text() == "q3 · south"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert dialog.count() == 0 and focused(page) == "q2"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    assert page.input_value("#search") == "" and len(ids(page)) == 8


def test_example_shows_its_trace_with_what_changed(opened, runs):
    page = opened(runs["run"])
    page.get_by_role("button", name="q2", exact=True).click()
    detail = page.locator("#detail")
    titles = detail.locator(".block > h4").all_inner_texts()
    assert [" ".join(title.split()) for title in titles][1:6] == (
        ["draft", "critic score 4", "draft", "critic score 3", "refined"]
    )
    assert detail.locator("del").first.inner_text() == "closed"
    assert detail.locator("ins").first.inner_text() == "open"
    scores = detail.locator("table tbody tr").all_inner_texts()
    assert [row.split()[:2] for row in scores] == [["alignment", "2"], ["harmful", "0"], ["people", "2"]]


def test_failed_example_shows_its_evidence(opened, runs):
    page = opened(runs["run"])
    page.get_by_role("button", name="q7", exact=True).click()
    said = page.locator("#detail").inner_text()
    for part in ("CallError: cannot reach [private address] as own", "failed at critique_response, sample 3"):
        assert part in said
    assert "The answer is [RES" in said and "cut off at max_tokens" in said


def test_comparison_opens_two_runs_side_by_side(opened, runs):
    page = opened(runs["run"], runs["other"])
    page.locator("#comparison [data-open]").first.click()
    columns = page.locator("#detail .column")
    assert columns.count() == 2
    assert [text.split("\n")[0] for text in columns.all_inner_texts()] == ["a", "b"]
    boxes = [columns.nth(n).bounding_box() for n in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    page.keyboard.press("Escape")
    page.select_option("#run", label="b")
    page.select_option("#criterion", "alignment")
    page.fill("#from", "5")
    assert ids(page) == ["q4"]


def test_tuning_shows_the_search_and_marks_what_changed(opened, runs):
    page = opened(runs["tuning"])
    assert page.locator("svg.plot .winner").count() == 1 and page.locator("svg.plot .tried").count() == 1
    assert page.locator("[data-before] del").inner_text() == "short"
    assert page.locator("[data-after] ins").inner_text() == "clear"
    assert page.locator(".seeds.in .seed").count() == 1


def test_agreement_has_plots_and_opens_what_differs(opened, tmp_path):
    scores = {f"q{n}": {"alignment": 1 + n % 5} for n in range(20)}
    run = parts.run_of(tmp_path / "r", [parts.answered(name) for name in scores])
    parts.judge_run(run, scores, labels={name: 1 + (n + (n == 3)) % 5 for n, name in enumerate(scores)})
    page = opened(run)
    section = page.locator(".agreement")
    assert section.locator("svg.plot").count() == 2 and section.locator("svg.plot .bubble").count() == 6
    assert section.locator("table.confusion td.same").all_inner_texts() == ["4", "4", "4", "3", "4"]
    section.locator("[data-open]").click()
    assert page.locator("#example-title").inner_text().startswith("q3")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_and_has_no_serious_accessibility_findings(opened, runs, width, scheme):
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed: make test-browser")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")
    for chosen in (["run", "other"], ["run"], ["tuning"]):
        page = opened(*(runs[name] for name in chosen), width=width, scheme=scheme)
        check(page, script)
        if chosen != ["tuning"]:
            page.get_by_role("button", name="q2", exact=True).last.click()
            check(page, script)


@pytest.mark.parametrize("width", [390, 1280])
def test_page_of_agreement_fits_and_is_accessible(opened, tmp_path, width):
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed: make test-browser")
    page = opened(width=width, path=write_agreement(parts.agreement(), tmp_path / "agree.html").path)
    assert page.locator("section.agreement svg").count() >= 4
    check(page, (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
    page.get_by_role("link", name="far", exact=True).click()
    assert page.locator("#agreement-2").is_visible()


def check(page, script):
    """No horizontal scrolling of the page, and nothing serious that axe finds."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate(script)  # by the debugger's door: the page's own policy lets nothing in
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"][:200])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious


def test_dark_and_light_differ(opened, runs):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(runs["run"], scheme=scheme).evaluate(colour) for scheme in ("light", "dark"))
    assert (
        sum(map(int, re.findall(r"\d+", light)[:3])) > 600 > 200 > sum(map(int, re.findall(r"\d+", dark)[:3]))
    )


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_hostile_texts_do_nothing(opened, tmp_path, whole):
    run = parts.hostile_run(tmp_path / "r")
    page = opened(run, parts.small_run(tmp_path / "s"), width=390, whole=whole)
    for n in range(len(parts.HOSTILE) + 2):
        page.locator("#rows tbody button.open").nth(n).click()
        assert page.locator("dialog[open]").count() == 1
        assert page.locator("#detail script, #detail img, #detail svg").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("document.querySelector('#detail').scrollWidth <= innerWidth")
        page.keyboard.press("Escape")
    page.fill("#search", "onfocus")
    assert page.evaluate("window.hacked") is None
    assert len(ids(page)) == 1


def test_policy_stops_what_a_page_would_do(opened, runs, tmp_path):
    page = opened(runs["run"])
    blocked = page.evaluate(
        """() => new Promise((done) => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", (event) => {
            seen.push(event.effectiveDirective);
            if (seen.length === 2) done(seen.sort());
          });
          const script = document.createElement("script");
          script.textContent = "window.hacked = 8";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://example.com/x.png";
          document.body.append(image);
        })"""
    )
    assert blocked == ["img-src", "script-src-elem"]
    assert page.evaluate("window.hacked") is None
    # The browser says on its console that it refused these two.
    said = [each for each in opened.troubles if "Content Security Policy" in each]
    assert len(said) == 2 and set(opened.troubles) <= {*said, "https://example.com/x.png"}
    opened.troubles.clear()


@pytest.mark.slow
def test_two_thousand_examples_are_quick_to_filter(opened, tmp_path):
    page = opened(parts.large_run(tmp_path / "r", 2000))
    assert page.locator("#count").inner_text() == "2,000 examples" and len(ids(page)) == 200
    page.fill("#search", "e1999")
    assert ids(page) == ["e1999"]
    page.fill("#search", "")
    page.get_by_role("button", name="Show more").click()
    assert len(ids(page)) == 400
    took = page.evaluate(
        """() => { const begun = performance.now(), search = document.querySelector("#search");
          search.value = "word1"; search.dispatchEvent(new Event("input")); return performance.now() - begun; }"""
    )
    assert took < 2000
