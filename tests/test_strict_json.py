"""NaN and Infinity: never written, and read as a missing number or refused by name, never as a figure."""

import json
import math

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spri_dspy as spri
from spri_dspy.bulk import run_bulk
from spri_dspy.errors import UsageError
from spri_dspy.records import Record, Round, Usage, Verdict
from spri_dspy.report.figures import findings
from spri_dspy.runs import RunDir
from spri_dspy.strict_json import from_text, to_text
from spri_dspy.tasks import make_example
from tests.command import files, write
from tests.command import spri as command
from tests.factories import make_task
from tests.judge_parts import make_run

NONE = (math.nan, math.inf, -math.inf)
HUGE = "1" + "0" * 400
ASKED = {"task": "questions", "seed": 0, "lms": {"base": "offline"}}


def strict(text):
    """Read JSON as the standard has it."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def assert_valid(folder):
    """Every JSON file under a folder is JSON to every reader."""
    seen = 0
    for path, content in files(folder).items():
        if path.suffix == ".jsonl":
            seen += [strict(line) for line in content.splitlines()] != []
        elif path.suffix == ".json":
            strict(content)
            seen += 1
    assert seen


values = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(values, st.none() | st.just(2))
def test_what_is_written_is_json_and_comes_back_with_none_for_what_is_no_number(value, indent):
    text = to_text(value, indent=indent)
    assert strict(text) == from_text(text) == from_text(json.dumps(value))


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", HUGE, HUGE + ".0", HUGE * 20]
)
def test_what_others_wrote_is_read_as_none(number):
    assert (
        from_text(f'{{"a": [{number}, 1.5]}}')
        == {"a": [None, 1.5]}
        == from_text(f'{{"a": [{number}, 1.5]}}'.encode())
    )


def odd_record(number, name="a"):
    return Record(
        name,
        {"question": "why?", "weights": [number]},
        {"response": "so", "sure": {"by": number}},
        labels={"human_score": number, "gold": 3},
        trace=(Round("response", "so", Verdict("fine", 4)),),
        usage={"base": Usage(1, 0, 2, 3)},
        seconds=number,
    )


@pytest.mark.parametrize("number", NONE)
def test_records_and_manifests_are_json_whatever_numbers_they_hold(tmp_path, number):
    asked = {**ASKED, "settings": {"temperature": number}}
    with RunDir.create(tmp_path / "run", asked) as run:
        run.append(odd_record(number))
    assert_valid(tmp_path)
    with RunDir.create(tmp_path / "run", asked) as run:  # the same settings again are no other run
        assert run.manifest["settings"] == {"temperature": None}


def test_a_program_that_returns_no_number_leaves_a_record_that_every_reader_takes(tmp_path):
    class Odd(dspy.Module):
        async def acall(self, question, group=None):
            return dspy.Prediction(response="so", sure=math.nan, weights=[math.inf, 1.0])

    run_bulk(Odd(), [make_example("a", {"question": "why?"}, labels={"gold": math.nan})], tmp_path / "run")
    assert_valid(tmp_path)
    (record,) = RunDir.read(tmp_path / "run").records()
    assert record.outputs == {"response": "so", "sure": None, "weights": [None, 1.0]}
    assert record.labels == {"gold": None}


def rated(name, score, label):
    return Record(
        name,
        {"instruction": "x", "answer": f"y {name}"},
        {"principles": "z", "response": {"feedback": "w", "score": score}},
        labels={"human_score": label},
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", HUGE, "-" + HUGE])
def test_a_score_or_label_that_is_no_number_in_a_foreign_run_is_dropped_and_counted(tmp_path, number):
    sound = [rated(f"r{n}", 1 + n % 5, 1 + (n + n // 7) % 5) for n in range(12)]
    run = make_run(*sound, path=tmp_path / "run", task="rubrics", lms={"base": "openai/gpt-4o-mini"})
    (expected,) = findings(RunDir.read(run))
    more = json.dumps(rated("odd", 3, 12345).to_json()).replace("12345", number) + "\n"
    more += json.dumps(rated("other", 12345, 3).to_json()).replace("12345", number) + "\n"
    (run / "records.jsonl").write_text((run / "records.jsonl").read_text() + more)
    (found,) = findings(RunDir.read(run))
    assert (found.agreement[0].value, found.agreement[0].n) == (expected.agreement[0].value, 12)
    assert found.agreement[0].dropped == expected.agreement[0].dropped + 2
    assert (found.overall.n, found.overall.dropped) == (13, 1) and math.isfinite(found.overall.value)
    code, out, err = command("judge", run, "--json")
    assert code == 0, err
    strict(out)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("column", ["human_score", "instruction", "id"])
def test_a_data_file_with_no_number_is_refused_by_line_and_field(tmp_path, number, column):
    row = {"id": "a", "instruction": "x", "response": "y", "human_score": 3}
    text = json.dumps({**row, column: 12345}).replace("12345", number)
    data = write(tmp_path / "rows.jsonl", text)
    code, out, err = command("run", "rubrics", "--data", data, "--run", tmp_path / "run")
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert "rows.jsonl" in err and ("line 1" in err or "row 1" in err)
    assert not (tmp_path / "run").exists()


def test_exports_and_printed_records_are_json(tmp_path):
    program = spri.SPRI(make_task()).set_lms(base="offline")
    run_bulk(program, [make_example("a", {"question": "why?"})], tmp_path / "first")
    run = make_run(odd_record(math.nan), path=tmp_path / "run", task="sft")
    record = json.loads((run / "records.jsonl").read_text())
    record["inputs"], record["seconds"] = {"instruction": "why?"}, 1.0
    (run / "records.jsonl").write_text(json.dumps(record | {"labels": {"human_score": math.nan}}) + "\n")
    code, _, err = command("export", run, "--format", "sft", "--all")
    assert code == 0, err
    (run / "records.jsonl").unlink()
    assert_valid(tmp_path)


def test_a_foreign_programs_demos_hold_no_such_number(tmp_path):
    program = spri.SPRI(make_task())
    state = program.dump_state()
    state["principles.generate"]["demos"] = [
        {"question": "why?", "principles": "be kind", "weight": math.nan}
    ]
    (tmp_path / "program.json").write_text(json.dumps(state))
    spri.load_program(program, tmp_path / "program.json")
    assert program.principles.generate.demos[0]["weight"] is None
    (tmp_path / "program.json").write_text("{NaN: 3}")
    with pytest.raises(UsageError, match="not valid JSON"):
        spri.load_program(program, tmp_path / "program.json")


@pytest.mark.parametrize("path", ["manifest.json", "records.jsonl"])
def test_a_file_that_is_one_such_number_is_no_run(tmp_path, path):
    run = make_run(rated("a", 3, 3), path=tmp_path / "run", task="rubrics")
    (run / path).write_text("NaN\n")
    code, _, err = command("show", run)
    assert code == 2 and err.splitlines()[-1].startswith("spri: ") and "Traceback" not in err
