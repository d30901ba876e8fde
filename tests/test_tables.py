"""The three tables: each runs offline on real rows, resumes, and says what it cannot say."""

import json

import pytest

from benchmarks import figures, grid, layout, reappraisal, rubrics, sft, tables
from spri_dspy.errors import BudgetSpent, DataError, LeakError, UsageError
from spri_dspy.lms.budget import Budget
from spri_dspy.metrics.set_level import LOPSIDED
from spri_dspy.runs import RunDir
from spri_dspy.tasks import load_task
from tests.data import data_file
from tests.table_parts import (
    LIVE,
    STAND_IN,
    answers,
    command,
    judged_by_hand,
    planned,
    planned_live,
    rated_by_hand,
    rows_file,
)

REAL = {
    "reappraisal": ("reappraisal/eval_30.jsonl", "vanilla,self_refine,spri"),
    "rubrics": ("rubrics/prometheus_vicuna.jsonl", "vanilla,mt_bench,spri"),
    "sft": ("sft/user_instructions_252.jsonl", "oracle_response,direct,spri"),
}
ASKED = (
    "schema",
    "benchmark",
    "title",
    "stand_ins",
    "is_marked_for_leaks",
    "data",
    "limit",
    "seed",
    "paper",
    "lms",
)
CELL = ["base", "base_lm", "system", "sees", "asked", "failed", "leaks", "run", "judged_run"]
VANILLA = [5, 6, 4, 7, 5, 6, 5, 4, 6, 5, 7, 6]
SELF_REFINE = [6, 6, 5, 7, 5, 7, 6, 5, 6, 5, 7, 7]
SPRI = [8, 8, 8, 9, 8, 8, 7, 8, 9, 8, 9, 9]
ORACLE = [6, 5, 5, 7, 4, 7, 4, 6, 6, 4, 8, 7]


@pytest.mark.parametrize("name", REAL)
def test_benchmark_runs_on_real_rows_and_says_that_the_stand_in_answered(name, tmp_path, capsys):
    file, systems = REAL[name]
    asked = (name, "--data", data_file(file), "--limit", 3, "--systems", systems, "--runs", tmp_path / "runs")
    outputs = ("--markdown", tmp_path / "table.md", "--figure", tmp_path / "table.png", "--json")
    code, out, err = command(capsys, *asked, *outputs)
    document = json.loads(out)
    assert code == 0
    views = {row["system"]: row["sees"] for row in document[name]["results"]}
    assert list(views) == sorted(systems.split(","), key=lambda system: views[system] == "labels")
    assert views["spri"] == "input" and views.get("oracle_response") in (None, "labels")
    assert all(row["asked"] == 3 and row["failed"] == 0 for row in document[name]["results"])
    assert STAND_IN in document["title"] and document["stand_ins"]
    assert STAND_IN in (tmp_path / "table.md").read_text("utf-8").splitlines()[0]
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "LM calls" in err.splitlines()[0]


def test_second_start_makes_no_lm_call(tmp_path):
    asked = grid.Ask(systems=["vanilla", "spri"], limit=3, runs=tmp_path)
    with pytest.raises(BudgetSpent):  # one call is too few, so a table below one that is made made none
        tables.build(reappraisal.TABLE, asked, budget=Budget(max_calls=1))
    first = tables.build(reappraisal.TABLE, asked)
    files = {path: path.read_bytes() for path in tmp_path.rglob("records.jsonl")}
    second = tables.build(reappraisal.TABLE, asked, budget=Budget(max_calls=1))
    assert layout.json_document(second) == layout.json_document(first)
    assert {path: path.read_bytes() for path in tmp_path.rglob("records.jsonl")} == files
    assert planned(reappraisal.TABLE, tmp_path, systems=["vanilla", "spri"], limit=3).forecast()["calls"] == {
        "fewest": 0,
        "typical": 0,
        "most": 0,
    }


def test_larger_limit_goes_on_and_a_smaller_one_reads_only_its_examples(tmp_path):
    def asked_for(limit):
        found = tables.build(sft.TABLE, grid.Ask(systems=["direct"], limit=limit, runs=tmp_path))
        return found.entries[0].estimates["score"].n

    assert [asked_for(limit) for limit in (2, 4, 3)] == [2, 4, 3]
    assert len(list(tmp_path.iterdir())) == 1


def test_smaller_limit_judges_no_example_that_was_not_asked_for(tmp_path):
    whole = planned(sft.TABLE, tmp_path, systems=["direct"], limit=4)
    with whole.cells[0].plan.open(whole.cells[0].path) as run:
        whole.cells[0].plan.execute(run)
    table = tables.build(sft.TABLE, grid.Ask(systems=["direct"], limit=2, runs=tmp_path))
    assert len(RunDir.read(table.entries[0].cell.judged).finished()) == 2


def test_dry_run_prints_calls_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(capsys, "reappraisal", "--limit", 2, "--systems", "vanilla,spri", "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        "offline vanilla: 2 examples; 10 to 10 LM calls, typically 10",
        "offline spri: 2 examples; 16 to 40 LM calls, typically 17",
        "2 cells of reappraisal, built-in examples: 26 to 50 LM calls, typically 27; about $0.00",
        "nothing was run and nothing was written",
    ]
    assert not list(tmp_path.iterdir())


def test_forecast_asks_another_judge_anew(tmp_path):
    tables.build(sft.TABLE, grid.Ask(systems=["direct"], limit=2, runs=tmp_path))
    other = planned(sft.TABLE, tmp_path, systems=["direct"], limit=2, judges=["offline?seed=7"])
    assert other.forecast()["calls"] == {"fewest": 2, "typical": 2, "most": 2}


def test_json_has_the_fields_that_programs_rely_on(tmp_path):
    data = rows_file(tmp_path / "rows.jsonl", answers("grounding", [1, 2, 3]) + answers("safety", [1, 4, 5]))
    cells = planned_live(rubrics.TABLE, tmp_path / "runs", systems=["vanilla", "mt_bench"], data=data)
    rated_by_hand(cells.cells[0], [1, 2, 3, 1, 4, 5])
    rated_by_hand(cells.cells[1], [2, 2, 3, 1, 5, 5])
    document = json.loads(layout.json_document(tables.read(rubrics.TABLE, cells)))
    assert sorted(document) == sorted([*ASKED, "rubrics", "by_capability"])
    assert document["schema"] == 2 and document["lms"] == {"base": [LIVE], "critic": None, "judge": []}
    row = document["rubrics"]["results"][1]
    assert sorted(row) == sorted([*CELL, "measures", "groups"])
    estimate = ["name", "value", "n", "dropped", "low", "high", "reason", "coverage"]
    beside = ["marks", "holm_marks", "tests", "published", "published_marks", "published_for"]
    assert sorted(row["measures"]["agreement"]) == sorted([*estimate, *beside])
    assert row["measures"]["agreement"]["published"] == 0.416
    assert sorted(row["measures"]["agreement"]["tests"][0]) == sorted(
        ["baseline", "metric", "difference", "low", "high", "p", "n", "test", "dropped", "reason", "p_holm"]
    )
    assert sorted(row["groups"]["grounding"]) == sorted(estimate)


def test_offline_table_holds_counts_and_no_figure(tmp_path, capsys):
    asked = ("rubrics", "--systems", "vanilla,spri", "--limit", 4, "--runs", tmp_path / "runs")
    code, out, _ = command(capsys, *asked, "--json")
    document = json.loads(out)
    assert code == 0 and sorted(document) == sorted([*ASKED, "rubrics"])
    vanilla, spri = document["rubrics"]["results"]
    assert sorted(spri) == sorted([*CELL, "stop_reasons", "calls"])
    assert sum(vanilla["stop_reasons"].values()) == 0 and sum(spri["stop_reasons"].values()) == 8
    _, text, _ = command(capsys, *asked)
    assert not any(word in text for word in ("Pearson", "mean score", "published"))


def test_shipped_answers_are_enough_for_every_capability_of_table_2(tmp_path):
    cells = planned_live(rubrics.TABLE, tmp_path / "runs", systems=["vanilla"])
    examples = cells.cells[0].examples.values()
    rated_by_hand(
        cells.cells[0], [max(1, e.label_values["human_score"] - n % 2) for n, e in enumerate(examples)]
    )
    table = tables.read(rubrics.TABLE, cells)
    agreement = table.entries[0].estimates["agreement"]
    assert len(table.groups) == 8 and 0.5 < agreement.value <= 1


def test_marks_are_those_of_paired_tests_and_holm_takes_the_weak_one_away(tmp_path):
    cells = planned_live(
        reappraisal.TABLE, tmp_path, systems=["vanilla", "self_refine", "spri", "oracle_principles"]
    )
    lower = [4 - place % 2 for place in range(12)]
    for cell, alignment in zip(cells.cells, (VANILLA, SELF_REFINE, SPRI, ORACLE), strict=True):
        empathy = lower if alignment is ORACLE else [5 - (place % 5 == 0) for place in range(12)]
        judged_by_hand(cell, alignment=alignment, empathy=empathy, harmful=[0] * 12, factuality=[1] * 12)
    _, self_refine, spri, oracle = (table := tables.read(reappraisal.TABLE, cells)).entries

    assert [e.marks("alignment") for e in table.entries] == ["", "*", "*†", ""]
    assert [e.holm_marks("alignment") for e in table.entries] == ["", "", "*†", ""]
    weak = self_refine.tests["alignment"][0]
    assert weak.comparison.p == pytest.approx(2 / 2**6)  # six differences, all of one sign
    assert weak.p_holm == pytest.approx(3 * weak.comparison.p)  # two of the five tests are stronger
    assert oracle.marks("empathy") == "" and oracle.holm_marks("empathy") == "*↓†↓"
    row = layout.sections(table)[0].rows[2]
    assert row[2].startswith("8.25*† [") and row[3:5] == ("(8.00†)", "*†") and row[-1] == "12 of 12"
    assert spri.published_for == "GPT-4o-mini" and not spri.is_same_model


def test_few_sources_of_examples_are_not_tested(tmp_path):
    cells = planned_live(reappraisal.TABLE, tmp_path, systems=["vanilla", "spri"], limit=5)
    for cell, values in zip(cells.cells, (VANILLA, SPRI), strict=True):
        judged_by_hand(cell, alignment=values, empathy=values, harmful=[0] * 5, factuality=[1] * 5)
    table = tables.read(reappraisal.TABLE, cells)
    assert table.entries[1].marks("alignment") == ""
    assert table.entries[1].tests["alignment"][0].to_json()["p"] is None
    assert "No marks for want of examples: 5 sources, 6 are the fewest." in layout.sections(table)[0].notes
    assert "Holm" not in layout.sections(table)[0].columns


def test_data_without_labels_has_scores_and_no_correlation(tmp_path):
    data = rows_file(tmp_path / "rows.jsonl", answers("planning", [-1, -1, -1, -1]))
    cells = planned_live(rubrics.TABLE, tmp_path / "runs", systems=["vanilla"], data=data)
    rated_by_hand(cells.cells[0], [1, 2, 3, 4])
    table = tables.read(rubrics.TABLE, cells)
    section = layout.sections(table)[0]
    row = dict(zip(section.columns, section.rows[0], strict=True))
    assert row["Pearson r, mean of capabilities"] == row["Pearson r, all"] == "no labels"
    assert row["mean score (1-5)"].startswith("2.50 (")
    assert (row["scored"], row["and labelled"]) == ("4 of 4", "0 of 4")
    assert section.results[0]["measures"]["overall"]["value"] is None


def test_constant_scores_and_groups_of_two_have_a_reason(tmp_path):
    rows = answers("planning", [1, 2, 3, 4]) + answers("safety", [2, 5]) + answers("reasoning", [1, 3, 5])
    data = rows_file(tmp_path / "rows.jsonl", rows)
    cells = planned_live(rubrics.TABLE, tmp_path / "runs", systems=["vanilla", "mt_bench"], data=data)
    rated_by_hand(cells.cells[0], [3] * 9)
    rated_by_hand(cells.cells[1], [1, 2, 3, 5, 1, 2, 4, 4, 4])
    table = tables.read(rubrics.TABLE, cells)
    constant, other = layout.sections(table)[0].rows
    assert constant[2] == "0.000 (1)" and constant[5] == "constant scores"
    assert other[2].startswith("0.491 [") and other[2].endswith("(3)")
    alone = "no interval: no spread between clusters"
    assert layout.sections(table)[0].notes[:3] == [
        "(1) without safety (needs at least 3 examples, has 2); "
        f"planning, reasoning counted as 0 (constant scores); {LOPSIDED}",
        f"(2) {alone}",
        "(3) without safety (needs at least 3 examples, has 2); reasoning counted as 0 (constant scores)",
    ]
    by_capability = layout.sections(table)[1]
    assert by_capability.columns == ("base", "system", "planning", "reasoning", "safety")
    assert by_capability.rows[1] == ("m", "mt_bench", "0.983 (2)", "constant scores", "nan (1)")
    for figure in (figures.overview(table), figures.by_group(table)):
        assert figures.png(figure).startswith(b"\x89PNG")


def test_instances_without_an_answer_are_not_counted_as_unscored(tmp_path):
    rows = [
        *answers("planning", [1, 2, 3]),
        {"id": "bare", "capability": "planning", "instruction": "Plan a day."},
    ]
    data = rows_file(tmp_path / "rows.jsonl", rows)
    table = tables.build(rubrics.TABLE, grid.Ask(systems=["spri"], data=data, runs=tmp_path / "runs"))
    assert table.entries[0].asked == 3


def test_failed_examples_lower_the_coverage_and_the_exit_code_says_so(tmp_path, capsys):
    lm = "base=offline?garbage_rate=1"
    asked = ("reappraisal", "--lm", lm, "--systems", "vanilla", "--limit", 2, "--runs", tmp_path)
    code, out, _ = command(capsys, *asked)
    assert code == 1
    assert "2 of 2 examples failed" in out


def test_leaks_are_refused_and_mark_the_table_if_allowed(tmp_path):
    seed = load_task("reappraisal").seeds[0]
    row = {"id": "leaked", "post": seed["post"], "aim": seed["aim"], "dimension": seed["group"]}
    data = rows_file(tmp_path / "rows.jsonl", [row])
    asked = {"systems": ["vanilla", "spri"], "data": data, "runs": tmp_path / "runs"}
    with pytest.raises(LeakError):
        tables.build(reappraisal.TABLE, grid.Ask(**asked))
    assert not (tmp_path / "runs").exists()
    table = tables.build(reappraisal.TABLE, grid.Ask(**asked, allow_leak=True))
    assert "evaluation inputs among the seeds" in table.title
    assert [row[1] for row in layout.sections(table)[0].rows] == ["vanilla", "spri [leak]"]
    assert json.loads(layout.json_document(table))["is_marked_for_leaks"]


def test_systems_that_need_missing_labels_are_left_out_unless_named(tmp_path):
    data = rows_file(tmp_path / "rows.jsonl", [{"id": "1", "instruction": "Say hello in French."}])
    cells = planned(sft.TABLE, tmp_path, data=data)
    assert "oracle_response" not in [cell.system for cell in cells.cells]
    assert cells.left_out == {"oracle_response": "example '1' has no reference_answer"}
    with pytest.raises(DataError, match="reference_answer"):
        planned(sft.TABLE, tmp_path, data=data, systems=["oracle_response"])


def test_posts_without_standards_are_refused_before_anything_runs(tmp_path):
    data = rows_file(
        tmp_path / "rows.jsonl", [{"id": "1", "post": "I failed and feel bad.", "aim": "Ease it."}]
    )
    with pytest.raises(DataError, match="'1' has no standards"):
        planned(reappraisal.TABLE, tmp_path / "runs", data=data, systems=["vanilla"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--systems", "vanilla,vanilla"], "'vanilla' is named twice"),
        (["--systems", "nothing"], "unknown system 'nothing'"),
        (["--systems", "spri:seeds=few"], "seeds must be"),
        (["--lm", "base=openai/gpt-4o-mini"], "pass --lm judge=PROVIDER/MODEL"),
        (["--lm", "writer=offline"], "--lm takes ROLE=STRING"),
        (["--lm", "critic=offline", "--lm", "critic=offline?seed=1"], "critic= was given twice"),
        (["--concurrency", "0"], "--concurrency must be at least 1"),
        (["--figure", "table.pdf"], "must end in .png"),
        (["--markdown", "nowhere/table.md"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_line(argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "reappraisal", *argv)
    assert code == 2 and said in err and len(err.splitlines()) <= 2 and not out
    assert not list(tmp_path.iterdir())


def test_judge_is_refused_where_the_systems_judge_themselves(tmp_path):
    with pytest.raises(UsageError, match="asks no judge"):
        planned(rubrics.TABLE, tmp_path, judges=["offline"])


def test_several_bases_critic_paper_and_ablations_are_rows_of_their_own(tmp_path, capsys):
    asked = (
        "sft",
        "--bases",
        "offline,offline?seed=3",
        "--lm",
        "critic=offline?seed=9",
        "--paper",
        "--limit",
        2,
    )
    systems = "spri,spri:seeds=none,spri:seeds=k:2:accept_at=5"
    code, out, _ = command(capsys, *asked, "--systems", systems, "--runs", tmp_path, "--json")
    document = json.loads(out)
    rows = document["sft"]["results"]
    assert code == 0 and document["paper"]
    assert [(row["base"], row["system"]) for row in rows] == [
        (base, system) for base in ("offline", "offline?seed=3") for system in systems.split(",")
    ]
    assert len({row["run"] for row in rows}) == 6
    manifest = RunDir.read(rows[2]["run"]).manifest
    assert manifest["settings"] == {"paper": True, "seeds": "k:2", "accept_at": "5"}
    assert manifest["models"] == {"base": "offline", "critic": "offline?seed=9"}
