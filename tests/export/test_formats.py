"""Rows of a run: what goes out, what stays and why, and that rubrics come back the same."""

import json

import pytest

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.export.formats import chat_row, export_run, preference_pair
from spri_dspy.records import Record, Round, Verdict
from spri_dspy.runs import RunDir
from tests.command import files, spri
from tests.data import data_file
from tests.export_parts import PROMPT, card_of, lines_of, make_record, make_run, run_offline


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Chat rows


def test_a_chat_row_is_a_conversation_of_one_turn_and_how_it_was_accepted():
    assert chat_row(make_record("a", 3, 5)) == {
        "id": "a",
        "messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "draft 2"}],
        "principles": "Be kind.",
        "stop_reason": "accepted",
        "score": 5,
    }


def test_a_chat_row_of_a_system_without_critic_or_principles_has_nulls_in_their_place():
    row = chat_row(make_record(outputs={"response": "Bittern."}, reason=None))
    assert row["messages"][1]["content"] == "Bittern."
    assert (row["principles"], row["stop_reason"], row["score"]) == (None, None, None)


def test_the_prompt_joins_the_inputs_without_principles_and_labels():
    record = make_record(
        inputs={"post": "I lost my key.", "aim": "Ease it.", "principles": "P", "oracle_principles": "O"},
        labels={"oracle_principles": "O", "standards": "S"},
    )
    assert chat_row(record)["messages"][0]["content"] == "I lost my key.\n\nEase it."


MIXED = (
    make_record("good", 5),
    make_record("spent", 2, reason="exhausted"),
    make_record("silent", None, reason="unscored"),
    make_record("broken", error="ServerError: down", outputs={}, trace=(), reason=None),
    make_record("judged", outputs={"response": {"feedback": "f", "score": 3}}),
    make_record("half", outputs={"principles": "Be kind."}, reason=None),
)


def test_only_accepted_responses_go_out_by_default_and_every_other_record_is_counted(tmp_path):
    done = export_run(make_run(tmp_path / "run", *MIXED), "sft")
    assert [row["id"] for row in lines_of(done.path)] == ["good"]
    assert done.to_json() == {
        "format": "sft",
        "path": str(tmp_path / "run/exports/sft-jsonl/sft.jsonl"),
        "card": str(tmp_path / "run/exports/sft-jsonl/README.md"),
        "records": 6,
        "ok": 5,
        "failed": 1,
        "exported": 1,
        "dropped": {
            "response exhausted": 1,
            "response unscored": 1,
            "failed": 1,
            "response is no text": 1,
            "no response": 1,
        },
    }


def test_all_takes_every_finished_response(tmp_path):
    done = export_run(make_run(tmp_path / "run", *MIXED), "sft", include_all=True)
    assert [(row["id"], row["stop_reason"]) for row in lines_of(done.path)] == [
        ("good", "accepted"),
        ("spent", "exhausted"),
        ("silent", "unscored"),
    ]


def test_a_baseline_without_a_critic_gives_every_finished_response(tmp_path):
    run = run_offline(tmp_path / "run", task="sft", system="vanilla", limit=3)
    done = export_run(run, "sft")
    assert len(lines_of(done.path)) == 3
    assert done.tally.dropped == {}


@pytest.mark.parametrize("to", ["jsonl", "parquet"])
def test_half_a_surrogate_pair_goes_out_as_a_replacement_character(tmp_path, to):
    run = make_run(tmp_path / "run", make_record("a", 5, texts=["fine \ud83d, and \U0001f642"]))
    done = export_run(run, "sft", to=to)
    if to == "jsonl":
        assert lines_of(done.path)[0]["messages"][1]["content"] == "fine \ufffd, and \U0001f642"
    assert "fine \ufffd, and \U0001f642".encode() in done.path.read_bytes()


# Preference pairs


def test_a_pair_is_the_response_that_stands_over_the_first_draft():
    assert preference_pair(make_record("a", 2, 3, 5)) == {
        "id": "a",
        "prompt": [{"role": "user", "content": PROMPT}],
        "chosen": [{"role": "assistant", "content": "draft 3"}],
        "rejected": [{"role": "assistant", "content": "draft 1"}],
        "score_chosen": 5,
        "score_rejected": 2,
        "margin": 3,
    }


def test_a_pair_does_not_need_an_accepted_response_and_takes_the_one_that_was_kept():
    pair = preference_pair(make_record("a", 1, 3, 2, response="draft 2", reason="exhausted"))
    assert (pair["chosen"][0]["content"], pair["score_chosen"], pair["margin"]) == ("draft 2", 3, 2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (make_record("a", 5), "response not refined"),
        (make_record("a", 3, 3), "refined, but not scored higher"),
        (make_record("a", 3, 2), "refined, but not scored higher"),
        (make_record("a", 3, 4, texts=["same", "same"]), "refined, but not scored higher"),
        (make_record("a", 3, 2, 2, response="draft 1"), "refined, but not scored higher"),
        (make_record("a", 3, None, reason="unscored"), "no readable score"),
        (make_record("a", 3, 5, response="never judged"), "no readable score"),
        (make_record("a"), "response without a critique"),
        (make_record("a", trace=(Round("response", "v1", None),)), "response without a critique"),
        (make_record("a", trace=(Round("principles", "p", Verdict("", 5)),)), "response without a critique"),
        (make_record("a", 2, 4, error="ServerError: down"), "failed"),
        (make_record("a", 2, 4, outputs={"principles": "p"}), "no response"),
    ],
)
def test_there_is_no_pair_and_a_reason_where_the_critic_saw_no_improvement(record, reason):
    assert preference_pair(record) == reason


def test_a_draft_has_the_score_that_was_read_when_the_critic_was_asked_again():
    rounds = [
        Round("response", "draft", Verdict("?", None), 0),
        Round("response", "draft", Verdict("weak", 2), 1),
        Round("response", "better", Verdict("fine", 4), 0),
    ]
    pair = preference_pair(make_record(trace=tuple(rounds), response="better"))
    assert (pair["rejected"][0]["content"], pair["score_rejected"], pair["score_chosen"]) == ("draft", 2, 4)


def test_a_score_that_was_given_to_another_text_is_not_the_responses():
    # The published self-refine judges its first answer again and again, and lets the last stand.
    rounds = tuple(Round("response", "first", Verdict("", score)) for score in (2, 4))
    record = make_record(trace=rounds, outputs={"response": "last", "scores": {"response": 4}})
    assert preference_pair(record) == "no readable score"
    assert chat_row(record)["score"] is None


# Demonstration data, offline


@pytest.mark.parametrize("data", [None, "sft/user_instructions_252.jsonl"])
def test_an_offline_sft_run_gives_chat_rows_and_pairs_that_agree(tmp_path, data):
    source = data_file(data) if data else None
    run = run_offline(tmp_path / "run", task="sft", data=source, limit=10, settings={"accept_at": "6"})
    chats = {row["id"]: row for row in lines_of(export_run(run, "sft", include_all=True).path)}
    pairs = lines_of(export_run(run, "dpo").path)
    assert len(chats) == 10
    assert 1 <= len(pairs) <= 10
    for pair in pairs:
        chat = chats[pair["id"]]
        assert pair["prompt"] + pair["chosen"] == chat["messages"]
        assert pair["score_chosen"] == chat["score"] > pair["score_rejected"] >= 1
        assert pair["chosen"] != pair["rejected"]
    _, _, cells = card_of(tmp_path / "run/exports/dpo-jsonl/README.md")
    assert cells["**rows**"] == [f"**{len(pairs)}**"]
    assert cells.get("without a row: refined, but not scored higher", ["0"]) == [str(10 - len(pairs))]


# Rubrics there and back


@pytest.fixture(scope="module")
def rubric_rows(tmp_path_factory):
    run = run_offline(tmp_path_factory.mktemp("rubrics") / "run", task="rubrics")
    return lines_of(export_run(run, "rubrics").path)


def exported_rubrics(*more):
    assert spri("run", "rubrics", "--run", "first", "--json")[0] == 0
    code, out, err = spri("export", "first", "--format", "rubrics", *more)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("to", ["jsonl", "parquet", "hf:rubrics"])
def test_judging_with_exported_rubrics_uses_the_very_same_ones(tmp_path, to):
    exported_rubrics("--to", to)
    places = {"jsonl": "first/exports/rubrics-jsonl/rubrics.jsonl"}
    places |= {"parquet": "first/exports/rubrics-parquet/rubrics.parquet"}
    place = places.get(to, "rubrics/data/train-00000-of-00001.parquet")
    code, out, _ = spri("run", "rubrics", "--rubrics", place, "--run", "second", "--json")
    assert code == 0
    first = {record.id: record for record in RunDir.read(tmp_path / "first").records()}
    second = {row["id"]: Record.from_json(row) for row in map(json.loads, out.splitlines())}
    assert len(second) == 24
    for name, record in second.items():
        assert record.outputs["principles"] == first[name].outputs["principles"]
        assert record.outputs["response"] == first[name].outputs["response"]
        assert {step.stage for step in record.trace} == {"response"}
        assert set(record.stop_reasons) == {"response"}
    again = export_run(RunDir.read(tmp_path / "second"), "rubrics")
    hashes = [{row["id"]: row["hash"] for row in lines_of(again.path)}]
    if to == "jsonl":
        hashes.append({row["id"]: row["hash"] for row in lines_of(tmp_path / place)})
    assert all(len(by_id) == 8 and by_id == hashes[0] for by_id in hashes)


def test_a_rubric_row_holds_what_it_takes_to_judge_with_it_elsewhere(tmp_path):
    said = exported_rubrics("--out", "rubrics.jsonl")
    assert said.splitlines() == [
        "8 rows from 24 records: rubrics.jsonl",
        "without a row: shares its instance's row (16)",
        "data card: README.md",
    ]
    rows = {row["id"]: row for row in lines_of(tmp_path / "rubrics.jsonl")}
    row = rows["lamp-stock-1"]
    first = next(r for r in RunDir.read(tmp_path / "first").records() if r.cluster == "lamp-stock-1")
    manifest = RunDir.read(tmp_path / "first").manifest
    assert len(row.pop("hash")) == 16
    assert row == {
        "format": "spri-rubric/1",
        "id": "lamp-stock-1",
        "instruction": first.inputs["instruction"],
        "capability": "tool_usage",
        "rubric": first.outputs["principles"],
        "program": manifest["program"],
        "lms": {"base": "offline"},
    }


def changed(rows):
    return [rows[0], {**rows[1], "rubric": {**rows[1]["rubric"], "criteria": "Is it long?"}}]


def without_a_level(rows):
    return [{**rows[0], "rubric": {k: v for k, v in rows[0]["rubric"].items() if k != "score3_description"}}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "the rubric file has no rubric for"),
        (changed, "r.jsonl, line 2: the rubric of"),
        (
            lambda rows: [rows[0], {**rows[1], "format": "spri-rubric/9"}],
            "line 2: not an exported rubric of format",
        ),
        (lambda rows: [{"instruction": "no rubric at all"}], "spri export RUN --format rubrics makes them"),
        (lambda rows: [rows[0], rows[0]], "line 2: a second rubric for"),
        (without_a_level, ": the rubric cannot be read; it needs criteria"),
        (
            lambda rows: [{k: v for k, v in rows[0].items() if k != "id"}],
            "line 1: missing column 'id'; it has",
        ),
        (lambda rows: [], "r.jsonl has no rows"),
    ],
)
def test_a_rubric_file_that_does_not_fit_is_one_line_and_nothing_runs(tmp_path, rubric_rows, change, said):
    rows = change(rubric_rows)
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = spri("run", "rubrics", "--rubrics", "r.jsonl", "--run", "second")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert not (tmp_path / "second").exists()


def test_a_second_and_different_rubric_of_an_instance_is_told_apart_from_a_shared_one(tmp_path):
    def judged(name, criteria):
        rubric = {"criteria": criteria} | {f"score{n}_description": f"level {n}" for n in range(1, 6)}
        return make_record(name, cluster="i", outputs={"principles": rubric})

    run = make_run(tmp_path / "run", judged("i/1", "Right?"), judged("i/2", "Right?"), judged("i/3", "Kind?"))
    done = export_run(run, "rubrics")
    assert [row["rubric"]["criteria"] for row in lines_of(done.path)] == ["Right?"]
    assert done.tally.dropped == {
        "shares its instance's row": 1,
        "has another rubric than its instance's row": 1,
    }
    assert done.tally.coverage == 1.0


# The command


@pytest.mark.parametrize(
    ("records", "format", "said"),
    [
        ((), "sft", "run has no finished example yet"),
        (
            MIXED[1:3],
            "sft",
            "every record is left out, response exhausted (1), response unscored (1); --all exports",
        ),
        (MIXED[3:4], "sft", "failed (1); run the same command with --retry-errors first"),
        (MIXED[4:5], "sft", "response is no text (1); --format rubrics exports this run's rubrics"),
        (MIXED[:1], "dpo", "response not refined (1); a pair needs a response that was refined"),
        (MIXED[:1], "rubrics", "no rubric (1); --format rubrics is for runs of the task rubrics"),
    ],
)
def test_an_empty_export_is_one_line_that_says_why_and_writes_nothing(tmp_path, records, format, said):
    make_run(tmp_path / "run", *records)
    before = files(tmp_path)
    code, out, err = spri("export", "run", "--format", format, "--out", "new/rows.jsonl")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert files(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--format csv", "unknown export format 'csv'; known: dpo, rubrics, sft"),
        ("--format dpo --all", "--all is for --format sft"),
        (
            "--format sft --to xml",
            "unknown export target 'xml'; known: hf:DIR, hub:USER/NAME, jsonl, parquet",
        ),
        ("--format sft --to hf:", "needs the name of a folder"),
        ("--format sft --to hf:.", "needs the name of a folder"),
        ("--format sft --to hf:x --out y.jsonl", "hub:USER/NAME name the place already"),
        ("--format sft --to parquet --out y.jsonl", "--out must end in .parquet for parquet, not 'y.jsonl'"),
        ("--format sft --out y.csv", "--out must end in .jsonl or .json for jsonl, not 'y.csv'"),
        ("", "Missing option '--format'. (spri export --help)"),
    ],
)
def test_options_that_make_no_sense_are_one_line(tmp_path, options, said):
    make_run(tmp_path / "run", make_record("a", 5))
    before = files(tmp_path)
    code, out, err = spri("export", "run", *options.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert files(tmp_path) == before


def test_json_is_one_line_with_the_place_and_the_counts(tmp_path):
    make_run(tmp_path / "run", *MIXED)
    code, out, err = spri("export", "run", "--format", "sft", "--out", "rows.jsonl", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["path"], found["card"], found["exported"]) == ("rows.jsonl", "README.md", 1)
    assert sum(found["dropped"].values()) == found["records"] - found["exported"]


def test_something_that_is_no_run_is_one_line():
    code, _, err = spri("export", "nowhere", "--format", "sft")
    assert (code, err) == (2, "spri: nowhere is no run directory: it has no manifest.json\n")


def test_a_wrong_format_is_answered_with_the_menu_from_python_too(tmp_path):
    with pytest.raises(UnknownNameError, match="known: dpo, rubrics, sft"):
        export_run(make_run(tmp_path / "run"), "chat")
    with pytest.raises(UsageError, match="no finished example"):
        export_run(RunDir.read(tmp_path / "run"), "sft")
