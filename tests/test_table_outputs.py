"""How tables look and what stands beside them: published figures, plots, narrow terminals, live LMs."""

import pytest

from benchmarks import figures, grid, layout, reappraisal, rubrics, sft, tables
from spri_dspy.errors import UsageError
from tests.table_parts import STAND_IN, judged_by_hand, planned, planned_live


def test_addresses_with_commas_stay_one_base():
    from benchmarks.command import _list

    several = "hosted_vllm/m?api_base=http://a:1/v1,http://b:1/v1"
    assert _list(f"offline, {several},openai/m") == ["offline", several, "openai/m"]


@pytest.mark.parametrize(
    ("base", "model", "is_same"),
    [
        ("gpt-4o-mini", "GPT-4o-mini", True),
        ("gpt-4o-mini-2024-07-18", "GPT-4o-mini", True),
        ("openai/gpt-4o-mini?temperature=0.7", "GPT-4o-mini", True),
        ("Mixtral-8x7B-Instruct-v0.1", "Mixtral-8x7B", True),
        ("some-other-model", "GPT-4o-mini", False),
    ],
)
def test_published_figures_are_those_of_the_base_or_marked_as_another_models(base, model, is_same):
    cell = grid.Cell("vanilla", base, base, None, None)
    figures_of, name, same = tables.published_figures(rubrics.TABLE, cell)
    assert (name, same) == (model, is_same) and figures_of["agreement"] in (0.377, 0.307)


def test_part_of_the_stand_in_is_named(tmp_path):
    judge = "hosted_vllm/m?api_base=http://localhost:1/v1"
    cells = planned(sft.TABLE, tmp_path, systems=["direct"], limit=1, judges=[judge])
    assert tables.Table(sft.TABLE, cells, []).title.endswith(f"(base by the {STAND_IN})")


def scored_by_hand(definition, path, **asked):
    cells = planned_live(definition, path, **asked)
    criteria = {m.name for m in definition.measures}
    for cell in cells.cells:
        judged_by_hand(cell, **{name: [4, 5, 3, 4][: len(cell.examples)] for name in criteria})
    return tables.read(definition, cells)


def test_plots_have_a_title_units_and_every_system(tmp_path):
    table = scored_by_hand(sft.TABLE, tmp_path, systems=["direct", "spri"], limit=2)
    figure = figures.overview(table)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["direct", "spri"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "judge's score (1-5)",
        "accepted by the critic\n(share)",
    ]
    assert "no critic" in [text.get_text() for text in figure.axes[1].texts]
    published = figures.published_mc2(table)
    assert "Published" in published.get_suptitle() and published.axes[1].get_ylabel() == "MC2 (%)"
    with pytest.raises(UsageError, match="one group"):
        figures.by_group(table)


def test_plot_of_an_offline_table_shows_stop_reasons_alone(tmp_path):
    table = tables.build(sft.TABLE, grid.Ask(systems=["direct", "spri"], limit=2, runs=tmp_path))
    figure = figures.overview(table)
    assert STAND_IN in figure.get_suptitle() and "count" in figure.axes[0].get_xlabel()
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == 4
    with pytest.raises(UsageError, match="no figures to show"):
        figures.by_group(table)


def test_published_table_of_task_3_stands_beside_and_nothing_claims_to_be_tuned(tmp_path):
    table = scored_by_hand(sft.TABLE, tmp_path, systems=["direct"], limit=1)
    main, published = layout.sections(table)
    assert "published" not in main.columns
    rows = {row[0]: row for row in published.rows}
    assert rows["spri"][1] == "55.92 / 56.08" and rows["direct"][1] == "51.48 / 50.82"
    assert rows["off_the_shelf"][1] == "45.03" and rows["post_trained"][2] == "-"
    assert published.notes[0].startswith("No model was tuned")


def test_narrow_terminal_gets_a_table_a_measure(tmp_path):
    table = scored_by_hand(reappraisal.TABLE, tmp_path, systems=["vanilla"], limit=1)
    assert [part.columns[2] for part in layout.for_width(table, 200)] == ["alignment (1-10)"]
    parts = layout.for_width(table, 80)
    assert [part.columns for part in parts] == [
        ("base", "system", "alignment (1-10)", "published", "judged"),
        ("base", "system", "empathy (1-5)", "published", "judged"),
        ("base", "system", "harmful (share)", "judged"),
        ("base", "system", "factuality (0-1)", "judged"),
    ]
    whole = layout.sections(table)[0]
    assert [cell for part in parts for cell in part.rows[0][2:-1]] == list(whole.rows[0][2:-1])
    assert parts[-1].notes == whole.notes


def test_narrow_terminal_gets_an_offline_table_in_two(tmp_path):
    table = tables.build(sft.TABLE, grid.Ask(systems=["direct", "spri"], limit=1, runs=tmp_path))
    whole = layout.sections(table)[0]
    assert layout.for_width(table, 100) == [whole]
    ran, ended = layout.for_width(table, 80)
    assert ran.columns == ("base", "system", "examples", "failed", "LM calls")
    assert ended.columns == ("base", "system", "accepted", "exhausted", "unscored")
    assert [row[2:4] + ended.rows[n][2:] + row[4:] for n, row in enumerate(ran.rows)] == [
        row[2:] for row in whole.rows
    ]
    assert STAND_IN in ended.title and ended.notes == whole.notes and not ran.notes


def test_live_lms_over_http_resume_without_a_request_and_name_no_stand_in(tmp_path, start_mock):
    server = start_mock()
    base, judge = (f"hosted_vllm/{name}?api_base={server.base_url}" for name in ("GPT-4o-mini", "judge"))
    asked = grid.Ask(systems=["vanilla", "spri"], bases=[base], judges=[judge], limit=3, runs=tmp_path)
    forecast = tables.plan(reappraisal.TABLE, asked).forecast()
    assert server.stats.received == 0 and forecast["usd_typical"] is None
    first = tables.build(reappraisal.TABLE, asked)
    made = server.stats.received
    assert forecast["calls"]["fewest"] <= made <= forecast["calls"]["most"]
    assert first.title == reappraisal.TABLE.title
    assert [entry.is_same_model for entry in first.entries] == [True, True]
    assert layout.sections(first)[0].rows[1][:2] == ("GPT-4o-mini", "spri")
    assert layout.json_document(tables.build(reappraisal.TABLE, asked)) == layout.json_document(first)
    assert server.stats.received == made
