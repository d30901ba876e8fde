"""The report without a browser: what it says, what it leaves out, how large it gets, and that it is one safe file."""

import base64
import gzip
import hashlib
import json
import re

import pytest

import spri_dspy as spri
from spri_dspy.errors import DataError, UsageError
from spri_dspy.records import Score
from spri_dspy.report.html import write_agreement
from spri_dspy.report.html.agreement import agreement_of
from spri_dspy.report.html.texts import Cleaner
from tests.command import assert_refused
from tests.command import spri as command
from tests.report.html import parts


def report(*runs, **settings):
    """The page as text, and its data."""
    written = spri.write_report(runs, runs[0].parent / "out.html", **settings)
    text = written.path.read_text("utf-8")
    return text, data_of(text), written


def data_of(text):
    packed, data = re.search(
        r'<script id="data" type="[^"]*"( data-packed)?>(.*?)</script>', text, re.S
    ).groups()
    return json.loads(gzip.decompress(base64.b64decode(data)) if packed else data)


def visible(text):
    """What stands in the page as it is, in plain words."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_run_says_what_it_was_and_came_to(tmp_path):
    text, data, written = report(parts.small_run(tmp_path / "a"))
    said = visible(text)
    assert "7 of 9 done, 1 failed" in said and "openai/gpt-4o-mini?temperature=0.7" in said
    assert "reappraisal/2 by openai/gpt-4o" in said and "6 of 6" in said
    assert "1 failed: CallError" in said and "cut off at max_tokens (critique_response)" in said
    assert "base calls 21, 7 from the cache" in said and "tokens in 14,700" in said
    assert re.search(r"principles 6 0 0 .* response 6 1 0", said)
    assert "median 4.0 s, longest 9.0 s" in said
    assert [example["id"] for example in data["runs"][0]["examples"]] == [f"q{n}" for n in range(1, 9)]
    assert written.of == written.shown == {"a": 8}


def test_example_has_its_trace_scores_and_people(tmp_path):
    _, data, _ = report(parts.small_run(tmp_path / "a"))
    example, texts = data["runs"][0]["examples"][1], data["texts"]
    assert [(step["kind"], step["score"]) for step in example["trace"]] == [
        ("draft", 4),
        ("draft", 3),
        ("refined", 4),
    ]
    assert texts[example["trace"][2]["text"]] == "The old bridge of q2 is open today."
    assert [(row["criterion"], row["value"]) for row in example["judged"]] == [
        ("alignment", 2),
        ("harmful", 0),
    ]
    assert texts[example["judged"][0]["said"][0]] == "why alignment of q2"
    assert example["people"] == 2 and example["path"] == {"principles": "4", "response": "3›4"}


def test_judged_run_shows_the_traces_of_the_run_it_was_made_from(tmp_path):
    run = parts.small_run(tmp_path / "a")
    (judged,) = (run / "judged").iterdir()
    _, data, _ = report(judged)
    assert data["runs"][0]["examples"][0]["trace"] and data["runs"][0]["examples"][0]["judged"]


def test_kept_calls_are_shown(tmp_path):
    run = parts.small_run(tmp_path / "a")
    call = {
        "example": "q1",
        "stage": "generate_response",
        "messages": [{"role": "user", "content": "Prompt!"}],
    }
    (run / "calls.jsonl").write_text(json.dumps(call | {"answer": "Answer!", "seconds": 1}) + "\n")
    _, data, _ = report(run)
    shown = data["runs"][0]["examples"][0]["calls"][0]
    assert data["texts"][shown["messages"][0][1]] == "Prompt!" and data["texts"][shown["answer"]] == "Answer!"


def test_offline_run_has_counts_and_no_figures(tmp_path):
    text, _, _ = report(parts.offline_run(tmp_path / "a"), parts.offline_run(tmp_path / "b"))
    said = visible(text)
    assert "alignment 2 of 2 scored" in said and "not a language model" in said
    assert "95 % interval" not in said and "8.50" not in said and "Agreement with people" not in said
    assert "the offline LM gave the scores, so they are not compared" in said


def test_offline_tuning_has_no_figures(tmp_path):
    said = visible(report(parts.tuning_run(tmp_path / "t", offline=True))[0])
    assert "seeds 3 4" in said and "are left out" in said
    assert "0.532" not in said and "0.500" not in said and "p = 0.011" not in said


def test_tuning_shows_decision_figures_trials_and_changes(tmp_path):
    said = visible(report(parts.tuning_run(tmp_path / "t"))[0])
    assert "Improved better on rows that the search had not seen (by 0.2, p = 0.011)" in said
    assert re.search(r"holdout start 0\.300 0\.200 to 0\.400", said)
    assert re.search(r"test difference 0\.200 .* 0\.011 40", said)
    assert re.search(r"3 seeds 3 4 came to the decision 0\.532", said)
    assert "Seeds taken out: 1" in said and "Name the lantern." in said and "Write clear principles." in said
    assert "$1.50" in said


def test_comparison_pairs_corrects_and_lists_differences(tmp_path):
    one, two = parts.small_run(tmp_path / "a"), parts.small_run(tmp_path / "b", shift=1)
    said = visible(report(one, two)[0])
    assert "8 examples in common" in said and "corrected by Holm’s rule for 2 tests" in said
    assert re.search(r"b alignment mean 0\.17", said)
    assert "q5 south alignment 5.0 1.0 −4.0" in said


def test_p_values_are_corrected_for_their_number(tmp_path):
    names = [f"q{n}" for n in range(6)]
    runs = [parts.run_of(tmp_path / name, [parts.answered(q) for q in names]) for name in "ab"]
    for more, run in enumerate(runs):
        scores = {q: {"alignment": n % 3 + more, "empathy": n % 2} for n, q in enumerate(names)}
        parts.judge_run(run, scores, {"alignment": "scale", "empathy": "scale"})
    said = visible(report(*runs)[0])
    # Six differences of one sign: 2 of 64 swaps are as extreme; the other test has p = 1.
    assert re.search(
        r"b alignment mean 1\.00 no interval: no spread between clusters .*0\.031 0\.062 6 b empathy", said
    )


def test_different_judges_are_not_compared(tmp_path):
    one = parts.small_run(tmp_path / "a")
    two = parts.small_run(tmp_path / "b", judged=False)
    assert "b was not judged" in visible(report(one, two)[0])
    parts.judge_run(two, {"q1": {"alignment": 1}}, lm="openai/other")
    assert "judged by different judges" in visible(report(one, two)[0])


def test_examples_of_one_id_with_other_inputs_are_left_out(tmp_path):
    one = parts.run_of(tmp_path / "a", [parts.answered("q1"), parts.answered("q2")])
    two = parts.run_of(tmp_path / "b", [parts.answered("q1"), parts.answered("q2", inputs={"post": "other"})])
    said = visible(report(one, two)[0])
    assert "1 examples in common" in said and "1 examples of the same id have other inputs" in said


def test_agreement_figures_confusion_and_calibration():
    scores = [Score(f"{n}", 1 + n % 5, 1 + (n + (n % 7 == 0)) % 5, "g", None) for n in range(70)]
    found = agreement_of("alignment", scores)
    assert found["n"] == 70 and found["same_scale"]
    assert sum(map(sum, found["confusion"]["rows"])) == 70
    assert [b["judge"] for b in found["calibration"]] == [1, 2, 3, 4, 5]
    assert sum(b["n"] for b in found["calibration"]) == 70
    assert [abs(row["gap"]) for row in found["most"]] == [4, 4] + [1] * 8
    pearson = found["figures"][0]
    assert pearson["value"] == pytest.approx(spri.load_metric("pearson").value(scores).value)


def test_agreement_on_different_scales_compares_places_in_the_order():
    scores = [Score(f"{n}", float(n), n / 10, None, None) for n in range(10)]
    found = agreement_of("x", [*scores[1:], Score("odd", 10.0, 0.0)])
    assert not found["same_scale"] and found["confusion"] is None
    assert found["most"][0]["id"] == "odd" and found["most"][0]["gap"] == pytest.approx(1.0)


def test_agreement_needs_numbers_of_both():
    assert agreement_of("x", [Score("a", 1.0, None), Score("b", None, 2.0)]) is None


def test_page_is_one_file_with_a_strict_policy(tmp_path):
    text, _, _ = report(parts.small_run(tmp_path / "a"))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1].replace(
        "&#39;", "'"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    script = re.findall(r"<script>(.*?)</script>", text, re.S)[-1]
    for part in (style, script):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    assert not re.search(r"\s(src|style|on\w+)=", re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S))
    assert not re.search(r"""(?:href|src|url\()\s*=?\s*["'(]?(?:https?:)?//""", text)


def test_texts_of_others_stay_texts(tmp_path):
    text, data, _ = report(parts.hostile_run(tmp_path / "a"))
    assert text.count("<script") == 2 and text.count("</script") == 2
    assert "<img" not in text and "<svg onload" not in text and parts.HOSTILE[5] in data["texts"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", text)
    assert parts.HOSTILE[0] in data["texts"]


def test_long_texts_are_cut_and_all_keeps_them(tmp_path):
    run = parts.run_of(tmp_path / "a", [parts.answered("q1", inputs={"post": "x" * 1_000_000})])
    _, data, _ = report(run)
    cut = next(text for text in data["texts"] if text.startswith("xx"))
    assert len(cut) < 21_000 and cut.endswith("[cut: 1,000,000 characters in all]")
    _, data, _ = report(run, whole=True)
    assert "x" * 1_000_000 in data["texts"]


def test_keys_and_private_addresses_are_never_shown(tmp_path, monkeypatch):
    call = {"example": "q1", "stage": "s", "answer": "from http://gpu.example.com:8000/v1", "seconds": 1}
    lms = {"base": "hosted_vllm/m?api_base=http://gpu.example.com:8000/v1"}
    secret = parts.answered("q1", inputs={"post": "my key is sk-abcdefgh12345678"})
    records = [secret, parts.failed("q7"), parts.answered("q2", outputs={"response": "see https://dspy.ai"})]
    run = parts.run_of(tmp_path / "a", records, lms=lms)
    (run / "calls.jsonl").write_text(json.dumps(call) + "\n")
    text, data, _ = report(run)
    whole = text + json.dumps(data)
    for hidden in ("10.1.2.3", "gpu-1", "gpu.example.com", "own-0123456789", "sk-abcdefgh", str(tmp_path)):
        assert hidden not in whole, hidden
    assert "[private address]" in whole and "https://dspy.ai" in whole


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://127.0.0.1:8000/v1 now", "at [private address] now"),
        ("at https://api.openai.com/v1", "at https://api.openai.com/v1"),
        ("10.0.0.7:80 and 8.8.8.8", "[private address] and 8.8.8.8"),
        ("http://box.lan/x", "[private address]"),
        ("version 1.2.3.400 of own-00ff00ff00", "version 1.2.3.400 of own"),
    ],
)
def test_messages_lose_private_addresses(text, shown):
    assert Cleaner().message(text) == shown


@pytest.mark.slow
def test_two_thousand_examples_stay_below_ten_megabytes(tmp_path):
    _, data, written = report(parts.large_run(tmp_path / "a", 2000))
    assert written.bytes < 10_000_000 and len(data["runs"][0]["examples"]) == 2000


def test_larger_runs_are_sampled_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("spri_dspy.report.html.MOST_EXAMPLES", 40)
    run = parts.large_run(tmp_path / "a", 100, words=5)
    text, data, written = report(run)
    assert len(data["runs"][0]["examples"]) == 40
    assert "a: 40 of 100 examples can be opened here, drawn at random" in visible(text)
    assert "100 done" in visible(text)
    assert written.lines()[1] == "a: a sample of 40 of 100 examples"
    assert report(run)[0] == text
    text, data, _ = report(run, whole=True)
    assert len(data["runs"][0]["examples"]) == 100 and "drawn at random" not in text


def test_heavy_runs_are_sampled_by_weight(tmp_path, monkeypatch):
    monkeypatch.setattr("spri_dspy.report.html.MOST_BYTES", 250_000)
    _, data, written = report(parts.large_run(tmp_path / "a", 300))
    assert written.bytes <= 250_000 and 20 <= len(data["runs"][0]["examples"]) < 300


def test_listed_examples_are_in_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("spri_dspy.report.html.MOST_EXAMPLES", 6)
    one, two = parts.small_run(tmp_path / "a"), parts.small_run(tmp_path / "b", shift=1)
    _, data, _ = report(one, two)
    assert "q5" in [example["id"] for example in data["runs"][0]["examples"]]
    assert all(len(run["examples"]) == 3 for run in data["runs"])


def test_names_are_as_long_as_they_need_be(tmp_path):
    one, two = parts.small_run(tmp_path / "x" / "run"), parts.small_run(tmp_path / "y" / "run")
    _, data, _ = report(one, two)
    assert [run["name"] for run in data["runs"]] == ["x/run", "y/run"]


def test_damaged_judged_run_is_named_and_left_out(tmp_path):
    run = parts.small_run(tmp_path / "a")
    (run / "judged" / "bad").mkdir()
    (run / "judged" / "bad" / "manifest.json").write_text("{")
    assert "not shown: a/judged/bad/manifest.json is no manifest" in visible(report(run)[0])


def test_what_cannot_be_reported_is_refused_in_one_line(tmp_path):
    run, tuning = parts.small_run(tmp_path / "a"), parts.tuning_run(tmp_path / "t")
    with pytest.raises(UsageError, match="named twice"):
        spri.write_report([run, run])
    with pytest.raises(UsageError, match="is a tuning run"):
        spri.write_report([run, tuning])
    with pytest.raises(UsageError, match="is a folder"):
        spri.write_report(run, tmp_path)
    with pytest.raises(UsageError, match="name a run"):
        spri.write_report([])
    with pytest.raises(DataError, match="no run directory"):
        spri.write_report(tmp_path / "none")
    (tuning / "report.json").write_text(json.dumps(parts.tuning_report() | {"costs": 3}))
    with pytest.raises(DataError, match="in a shape that is not known"):
        spri.write_report(tuning)
    (tuning / "report.json").unlink()
    with pytest.raises(DataError, match="has not ended"):
        spri.write_report(tuning)


def test_empty_run_has_a_report(tmp_path):
    assert "0 done" in visible(report(parts.run_of(tmp_path / "a", []))[0])


def test_command_writes_beside_the_run_and_says_where(tmp_path, monkeypatch):
    run = parts.small_run(tmp_path / "a")
    code, out, err = command("report", run)
    assert code == 0 and out.startswith(f"{run}/report.html  (") and not err
    code, out, _ = command("report", run, "--out", tmp_path / "x" / "b.html", "--json")
    assert json.loads(out)["of"] == {"a": 8} and (tmp_path / "x" / "b.html").is_file()
    opened = []
    monkeypatch.setattr("typer.launch", lambda place: opened.append(place) or 1)
    code, _, err = command("report", run, "--open")
    assert opened == [str(run / "report.html")] and "no browser was found" in err
    assert_refused(command("report", tmp_path), 2, "no run directory")


def test_agreement_of_judges_is_a_page_of_its_own(tmp_path):
    written = write_agreement(parts.agreement("<b>near</b>", "far"), tmp_path / "agree.html")
    text = written.path.read_text("utf-8")
    assert (
        "Content-Security-Policy" in text and "<b>near</b>" not in text and "&lt;b&gt;near&lt;/b&gt;" in text
    )
    for said in (
        "Judges and people",
        "Comparisons",
        "kendall tau-b",
        "annotator, against the others",
        "p, Holm",
    ):
        assert said in text, said
    assert text.count('class="agreement"') == 2
    with pytest.raises(UsageError, match="is a folder"):
        write_agreement(parts.agreement("near"), tmp_path)
