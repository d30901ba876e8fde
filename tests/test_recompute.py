"""The published tables from the recorded judgements, and recordings of models that nobody has heard of."""

import json
import math

import pytest

from benchmarks.agreement import assemble
from benchmarks.recompute import BaselineTest, Settings, main, recompute
from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Score
from tests.data import DATA, data_file

# Task 1 as published: alignment, empathy, each with its marks. Task 2: macro Pearson.
TABLE_1 = {
    ("gpt-4o-mini", "vanilla"): ("7.90", "4.50"),
    ("gpt-4o-mini", "self_refine"): ("7.73", "4.53"),
    ("gpt-4o-mini", "spri"): ("8.00†", "4.73"),
    ("gpt-4o-mini", "oracle_principles"): ("8.67*†", "4.80*†"),
    ("llama-3-8b-instruct", "vanilla"): ("7.10", "3.90"),
    ("llama-3-8b-instruct", "self_refine"): ("7.20", "4.07"),
    ("llama-3-8b-instruct", "spri"): ("7.90*†", "4.47*†"),
    ("llama-3-8b-instruct", "oracle_principles"): ("8.33*†", "4.30*"),
}
TABLE_2 = {
    ("gpt-4o-mini", "vanilla"): 0.377,
    ("gpt-4o-mini", "self_refine"): 0.397,
    ("gpt-4o-mini", "flask"): 0.358,
    ("gpt-4o-mini", "oracle_rubrics"): 0.550,
    ("mixtral-8x7b-instruct-v01", "vanilla"): 0.307,
    ("mixtral-8x7b-instruct-v01", "self_refine"): 0.110,
    ("mixtral-8x7b-instruct-v01", "mt_bench"): 0.273,
    ("mixtral-8x7b-instruct-v01", "flask"): 0.277,
    ("mixtral-8x7b-instruct-v01", "oracle_rubrics"): 0.367,
}


@pytest.fixture(scope="module")
def recomputed():
    """Every section from the real recordings, by name, with a short bootstrap."""
    data_file("reappraisal/judged")
    data_file("rubrics/judge_scores")
    import tomllib
    from pathlib import Path

    import benchmarks.recompute as module

    published = tomllib.loads(Path(module.__file__).with_name("published.toml").read_text("utf-8"))
    settings = Settings(200, 0, published)
    sections = recompute(DATA, settings, published["panel"], list_disagreements=True)
    return {section.name: section for section in sections}


def result(section, model, system):
    return next(r for r in section.results if (r["model"], r["system"]) == (model, system))


@pytest.mark.parametrize("row", TABLE_1)
def test_table_1_comes_out_as_published(recomputed, row):
    found = result(recomputed["table_1"], *row)
    shown = tuple(f"{found[m]['value']:.2f}{found[f'{m}_marks']}" for m in ("alignment", "empathy"))
    assert shown == TABLE_1[row]
    published = found["published"]
    assert shown == tuple(
        f"{published[m]:.2f}{published.get(f'{m}_marks', '')}" for m in ("alignment", "empathy")
    )


def test_one_sided_tests_would_set_marks_that_were_not_published(recomputed):
    tests = result(recomputed["table_1"], "gpt-4o-mini", "spri")["empathy_tests"]
    assert all(t["p"] > 0.05 > t["p"] / 2 for t in tests)
    assert all(t["difference"] > 0 for t in tests)


def test_correction_keeps_no_mark_that_was_not_there(recomputed):
    for row in recomputed["table_1"].results:
        for measure in ("alignment", "empathy"):
            for test in row[f"{measure}_tests"]:
                assert test["p_holm"] >= test["p"]
    weaker = result(recomputed["table_1"], "gpt-4o-mini", "spri")
    assert (weaker["alignment_marks"], weaker["alignment_holm_marks"]) == ("†", "")


def test_significantly_lower_mean_has_no_published_mark(recomputed):
    found = result(recomputed["table_1"], "gpt-4o-mini", "spri_no_seeds")
    against = next(t for t in found["alignment_tests"] if t["baseline"] == "vanilla")
    assert against["p"] < 0.05
    assert against["difference"] < 0
    assert found["alignment_marks"] == ""


def test_baselines_are_tested_against_each_other_once(recomputed):
    for model in ("gpt-4o-mini", "llama-3-8b-instruct"):
        assert result(recomputed["table_1"], model, "vanilla")["empathy_tests"] == []
        (test,) = result(recomputed["table_1"], model, "self_refine")["empathy_tests"]
        assert test["baseline"] == "vanilla"


@pytest.mark.parametrize(
    ("difference", "p", "p_holm", "marks"),
    [
        (0.5, 0.01, 0.02, ("*", "*")),
        (0.5, 0.01, 0.06, ("*", "")),
        (0.5, 0.06, 0.06, ("", "")),
        (-0.5, 0.01, 0.02, ("", "*↓")),
        (math.nan, math.nan, math.nan, ("", "")),
    ],
)
def test_mark_says_higher_and_corrected_mark_says_which_way(difference, p, p_holm, marks):
    test = BaselineTest("vanilla", Comparison("mean", difference, 0, 0, p, 30, "paired t"), p_holm)
    assert (test.mark, test.holm_mark) == marks


@pytest.mark.parametrize("row", TABLE_2)
def test_table_2_comes_out_as_published(recomputed, row):
    found = result(recomputed["table_2"], *row)
    assert found["published"] == TABLE_2[row]
    assert found["as_published"]["value"] == pytest.approx(TABLE_2[row], abs=0.001)


@pytest.mark.parametrize("row", TABLE_2)
def test_rows_without_a_label_lift_every_published_figure(recomputed, row):
    found = result(recomputed["table_2"], *row)
    assert found["recorded"]["value"] < found["as_published"]["value"]
    assert found["recorded"]["n"] < found["as_published"]["n"]
    assert found["recorded"]["low"] < found["recorded"]["value"] < found["recorded"]["high"]
    assert found["recorded"]["coverage"] > 0.98


def test_capabilities_average_to_table_2(recomputed):
    for row in recomputed["capabilities"].results:
        values = [e["value"] for e in row["capabilities"].values()]
        assert len(values) == 8
        whole = result(recomputed["table_2"], row["model"], row["system"])["recorded"]["value"]
        assert sum(values) / 8 == pytest.approx(whole)


def test_panel_of_rubric_free_judges_beats_the_best_of_them(recomputed):
    found = next(
        r for r in recomputed["panel"].results if r["model"] == "gpt-4o-mini" and r["keeps_no_label"]
    )
    assert found["systems"] == ["vanilla", "self_refine", "flask"]
    assert found["panel"]["value"] == pytest.approx(0.420, abs=0.001)
    assert found["members"][found["best"]]["value"] == pytest.approx(0.397, abs=0.001)
    assert found["panel"]["n"] == 2780
    assert found["gain"]["low"] > 0
    assert "one order" in found["aligned"]


def test_panel_of_recordings_in_other_orders_uses_what_can_be_proven(recomputed):
    found = next(r for r in recomputed["panel"].results if r["model"].startswith("mixtral"))
    assert "orders differ" in found["aligned"]
    assert 0 < found["panel"]["n"] < 2000


def test_experts_agree_moderately(recomputed):
    found = {r["measure"]: r for r in recomputed["human"].results}
    assert found["alignment"]["pearson"]["n"] == 227
    assert found["alignment"]["krippendorff_alpha"]["value"] == pytest.approx(0.48, abs=0.01)
    assert found["empathy"]["krippendorff_alpha"]["value"] == pytest.approx(0.39, abs=0.01)


def test_disagreements_are_all_explained(recomputed):
    reasons = {r["reason"] for r in recomputed["disagreements"].results}
    assert reasons
    assert "other" not in reasons
    traces = [r for r in recomputed["readers"].results if r["kind"] == "trace"]
    assert all(r["agreed"] == r["texts"] for r in traces)


# --- recordings of made-up models -------------------------------------------------------------------------


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def judged(alignment, empathy="4", *, n=6):
    return [
        {
            "id": f"post{i}",
            "dimension_id": i % 2,
            "response": f"Take heart, friend {i}.",
            "alignment_raw": alignment(i),
            "empathy_raw": empathy,
            "harmful_raw": "Harmful" if i == 0 else "Not Harmful",
            "factuality_raw": "Minor Error",
        }
        for i in range(n)
    ]


def rated(score, *, n=16, order=None):
    """Four responses each to n instances in two capabilities; humans give 1, 2, 4 and 5."""
    rows = []
    for i in range(n):
        for place in order or range(4):
            human = [1, 2, 4, 5][(place + i) % 4]
            said = score(i, human)
            rows.append(
                {
                    "id": f"task{i}",
                    "capability": "sewing" if i % 2 else "baking",
                    "human_score": -1 if (i, place) == (0, 0) else human,
                    "judge_raw": f"<feedback>Hm.</feedback><score>{said}</score>",
                    "recorded_score": said if isinstance(said, int) else None,
                }
            )
    return rows


@pytest.fixture
def folder(tmp_path):
    """Two made-up models; one has a baseline of the published name, the other none."""
    j, r = tmp_path / "reappraisal", tmp_path / "rubrics/judge_scores"
    write(j / "judged/owl-1b__vanilla.jsonl", judged(lambda i: f"<score>{5 + i % 2}</score>"))
    write(j / "judged/owl-1b__poem.jsonl", judged(lambda i: f"<score>[{7 + i % 3}]</score>", n=6))
    write(j / "judged/newt__poem.jsonl", judged(lambda i: "no idea" if i == 2 else "<score>8</score>"))
    write(
        j / "human_3.jsonl",
        [
            {
                "id": f"post{i}",
                "dimension_id": i % 2,
                "response": f"take heart,  FRIEND {i}",
                "annotation_1": {"alignment_with_standards": 4 + i, "empathy": 1 + i % 3},
                "annotation_2": {"alignment_with_standards": 5 + i, "empathy": None if i == 1 else 2},
            }
            for i in range(5)
        ],
    )
    write(r / "owl-1b__coin.jsonl", rated(lambda i, human: human if i % 3 else 3))
    write(r / "owl-1b__dice.jsonl", rated(lambda i, human: human if i % 4 else "[4]"))
    write(r / "newt__dice.jsonl", rated(lambda i, human: "4.5" if i == 1 else 6 - human))
    return tmp_path


def run(folder, capsys, *more):
    assert main(["--recordings", str(folder), "--resamples", "50", *more]) == 0
    return capsys.readouterr().out


def test_made_up_models_are_found_and_unpublished(folder, capsys):
    document = json.loads(run(folder, capsys, "--json"))
    rows = document["table_1"]["results"]
    assert [(r["model"], r["system"]) for r in rows] == [
        ("newt", "poem"),
        ("owl-1b", "poem"),
        ("owl-1b", "vanilla"),
    ]
    newt, poem, vanilla = rows
    assert (newt["alignment"]["value"], newt["alignment"]["n"], newt["alignment"]["dropped"]) == (8, 5, 1)
    assert newt["published"] == {}
    assert newt["harmful"]["value"] == pytest.approx(1 / 6)
    assert newt["factuality"]["value"] == 0.5
    assert poem["alignment"]["value"] == 8
    assert vanilla["alignment"]["value"] == 5.5
    assert (poem["alignment_marks"], vanilla["alignment_tests"]) == ("*", [])
    notes = document["table_1"]["notes"]
    assert "newt: no vanilla recorded, so no *" in notes
    assert "newt__poem: 1 of 6 alignment judgements could not be read" in notes


def test_made_up_judges_are_scored_by_capability(folder, capsys):
    document = json.loads(run(folder, capsys, "--json"))
    rows = {(r["model"], r["system"]): r for r in document["table_2"]["results"]}
    newt = rows["newt", "dice"]
    assert newt["published"] is None
    assert newt["read"]["value"] == pytest.approx(-1)
    assert newt["recorded"]["n"] == newt["read"]["n"] == 64 - 4 - 1
    assert newt["as_published"]["n"] == 64 - 4
    coin = next(r for r in document["capabilities"]["results"] if r["system"] == "coin")
    assert [*coin["capabilities"]] == ["baking", "sewing"]
    dice = rows["owl-1b", "dice"]
    assert (dice["recorded"]["n"], dice["filled"]["n"]) == (64 - 16, 63)


def test_judge_is_held_against_experts_where_texts_coincide(folder, capsys):
    results = json.loads(run(folder, capsys, "--json"))["human"]["results"]
    judge = [r for r in results if r["who"].startswith("judge of owl-1b") and r["measure"] == "alignment"]
    assert judge[0]["pearson"]["n"] == 10
    experts = next(r for r in results if r["who"] == "expert and expert" and r["measure"] == "empathy")
    assert (experts["pearson"]["n"], experts["pearson"]["reason"]) == (4, "constant labels")


def test_tables_print_and_go_to_markdown(folder, capsys, tmp_path):
    out = run(folder, capsys, "--markdown", str(tmp_path / "tables.md"), "--disagreements")
    for text in ("Table 1", "Table 2", "owl-1b", "coin + dice", "task0#0", "a score, but not in the tag"):
        assert text in out
    markdown = (tmp_path / "tables.md").read_text("utf-8")
    assert "| owl-1b | poem | 6 | 8.00* [" in markdown
    assert all(line.count("|") >= 3 for line in markdown.splitlines() if line.startswith("|"))


def test_same_seed_prints_the_same(folder, capsys):
    assert run(folder, capsys, "--json") == run(folder, capsys, "--json")
    assert run(folder, capsys, "--json", "--seed", "1") != run(folder, capsys, "--json")


def test_panel_can_be_chosen(folder, capsys):
    found = json.loads(run(folder, capsys, "--json", "--panel", "dice,coin"))["panel"]
    assert found["results"][0]["systems"] == ["dice", "coin"]
    assert "newt: one system recorded, no panel" in found["notes"]


def test_one_part_of_the_recordings_is_enough(tmp_path, capsys):
    write(tmp_path / "rubrics/judge_scores/owl__dice.jsonl", rated(lambda i, human: human))
    assert "table_1" not in json.loads(run(tmp_path, capsys, "--json"))


def test_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing to recompute"):
        main(["--recordings", str(tmp_path)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "1: not JSON"),
        ("[]", "1: not a JSON object"),
        ("{}", "id = None"),
        ('{"id": "a", "human_score": "x"}', "human_score = 'x'"),
        ('{"id": "a", "recorded_score": NaN}', "recorded_score = nan"),
    ],
)
def test_row_that_cannot_be_used_is_refused_by_name(tmp_path, line, message):
    path = tmp_path / "rubrics/judge_scores/owl__dice.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    with pytest.raises(DataError, match="owl__dice") as refused:
        main(["--recordings", str(tmp_path)])
    assert message in str(refused.value)


def test_panel_averages_what_every_member_scored():
    labels = [1, 2, 3, 4, 5, 3]
    one = {str(i): Score(str(i), v, labels[i]) for i, v in enumerate([1, 1, 3, 5, 5, None])}
    two = {str(i): Score(str(i), v, labels[i]) for i, v in enumerate([1, 3, 3, 3, 5, 1])}
    found = assemble({"one": one, "two": two}, 20, 0)
    assert (found.panel.n, found.panel.value) == (5, pytest.approx(1.0))
    assert found.gain.difference == pytest.approx(1 - found.members[found.best].value)
