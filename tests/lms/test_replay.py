"""Replay: outputs in their order, runs by their prompts, and never a word that nobody recorded."""

import asyncio

import pytest

import spri_dspy as spri
from spri_dspy.lms.cache import FILE, CallCache
from spri_dspy.lms.replay import Script, Tape, replay_lm, script_of
from spri_dspy.lms.scope import Scope, use_scope
from spri_dspy.lms.spec import load_lm
from tests.factories import chat, critique, make_task, scripted

CALLS = [
    ("generate_principles", chat(principles="be kind — «très» 🎈")),
    ("critique_principles", critique("no idea")),
    ("critique_principles", critique(4)),
    ("generate_response", chat(response="hello")),
    ("critique_response", critique(5)),
]


def program(lm):
    return spri.SPRI(make_task([{"question": "q", "principles": "p"}])).set_lms(base=lm)


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run, and what it said."""
    (tmp_path / "run").mkdir()
    cache = CallCache(tmp_path / "run" / "cache")
    with use_scope(Scope(cache=cache)):
        prediction = program(replay_lm(Script(CALLS)))(question="why?")
    cache.close()
    return tmp_path / "run", prediction


def test_script_gives_outputs_in_order_and_tells_what_is_left():
    script = script_of({"stage": stage, "output": output} for stage, output in CALLS)
    assert script.left == 5
    spri_program = spri.SPRI(make_task()).set_lms(base=replay_lm(script))
    assert spri_program(question="why?").response == "hello"
    assert script.left == 0


def test_script_refuses_another_stage_by_name():
    script = Script(CALLS[2:])
    with pytest.raises(
        spri.ReplayMiss, match="goes on with critique_principles, the program asks for generate_principles"
    ):
        program(replay_lm(script))(question="why?")
    assert script.left == 3


def test_script_that_ends_is_a_miss_and_no_invention():
    with pytest.raises(spri.ReplayMiss, match="ends before critique_principles"):
        program(replay_lm(Script(CALLS[:1])))(question="why?")


def test_calls_outside_of_a_program_are_a_miss():
    with pytest.raises(spri.ReplayMiss, match="an unnamed stage"):
        replay_lm(Script(CALLS))("hello")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_run_is_replayed_word_by_word(run, is_async):
    folder, recorded = run
    again = program(f"replay/{folder}")
    prediction = asyncio.run(again.acall(question="why?")) if is_async else again(question="why?")
    assert {k: v for k, v in prediction.items() if k != "usage"} == {
        k: v for k, v in recorded.items() if k != "usage"
    }
    assert prediction.trace[0].candidate == "be kind — «très» 🎈"


@pytest.mark.parametrize("part", ["", "cache", f"cache/{FILE}"])
def test_run_is_found_by_its_folder_or_its_file(run, part):
    folder, recorded = run
    assert program(replay_lm(folder / part))(question="why?").principles == recorded.principles


def test_second_sample_of_a_prompt_is_told_from_the_first(run):
    folder, _ = run
    trace = program(f"replay/{folder}")(question="why?").trace
    assert [(r.attempt, r.verdict.score) for r in trace] == [(0, None), (1, 4), (0, 5)]


def test_prompt_that_was_not_recorded_is_a_miss(run):
    folder, _ = run
    with pytest.raises(spri.ReplayMiss, match=r"has no answer for this prompt \(generate_principles\)"):
        program(f"replay/{folder}")(question="why not?")


def test_recordings_can_be_replayed_with_other_sampling(run):
    folder, recorded = run
    lm = load_lm(f"replay/{folder}").copy(temperature=1.3, max_tokens=17)
    assert program(lm)(question="why?").response == recorded.response


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_folder_without_recorded_calls_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(spri.DataError, match="holds no recorded calls"):
        Tape(name)
    with pytest.raises(spri.DataError):
        load_lm(f"replay/{name}")
    assert not list(tmp_path.iterdir())


def test_file_that_is_no_recording_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary")
    with pytest.raises(spri.DataError):
        Tape(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_replayed_run_is_cached_like_any_other(run, tmp_path):
    folder, _ = run
    cache = CallCache(tmp_path / "second")
    with use_scope(Scope(cache=cache)):
        program(f"replay/{folder}")(question="why?")
    assert len(cache) == len(CALLS)
    cache.close()


def test_reading_a_recording_leaves_it_as_it_is(run):
    folder, _ = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name == FILE}
    program(f"replay/{folder}")(question="why?")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name == FILE} == before


def test_copies_of_a_program_share_their_place_in_the_script():
    spri_program = spri.SPRI(make_task())
    script = scripted(spri_program, *CALLS)
    spri_program.deepcopy().principles(question="why?")
    assert script.left == 2
