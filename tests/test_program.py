"""The loop: gates, best candidates, unscored critiques, roles that survive, state that is checked."""

import asyncio
import copy
import json

import dspy
import pytest

import spri_dspy as spri
from spri_dspy.lms.replay import Script, replay_lm
from spri_dspy.program import fingerprint
from tests.factories import chat, critique, make_spri, make_task, scripted

DRAFT = ("generate_principles", chat(principles="be kind"))
GOOD = ("critique_principles", critique(4))
ANSWER = ("generate_response", chat(response="hello"))
FINE = ("critique_response", critique(5))


def refined(text):
    return ("refine_principles", chat(improved_principles=text))


def judged(score):
    return ("critique_principles", critique(score))


def test_first_draft_is_accepted_at_the_gate():
    program, script = make_spri(DRAFT, GOOD, ANSWER, FINE)
    prediction = program(question="why?")
    assert (prediction.principles, prediction.response) == ("be kind", "hello")
    assert prediction.stop_reasons == {"principles": "accepted", "response": "accepted"}
    assert [(r.stage, r.candidate, r.verdict.score) for r in prediction.trace] == [
        ("principles", "be kind", 4),
        ("response", "hello", 5),
    ]
    assert script.left == 0


def test_async_takes_the_same_plan():
    calls = [DRAFT, judged(2), refined("be kinder"), judged(5), ANSWER, FINE]
    program, _ = make_spri(*calls)
    first = program(question="why?")
    scripted(program, *calls)
    second = asyncio.run(program.acall(question="why?"))
    assert first.toDict() == second.toDict()


def test_best_candidate_is_kept_when_rounds_run_out():
    program, _ = make_spri(
        DRAFT,
        judged(2),
        refined("b"),
        judged(3),
        refined("c"),
        judged(1),
        refined("d"),
        judged(2),
        ANSWER,
        FINE,
    )
    prediction = program(question="why?")
    assert prediction.principles == "b"
    assert prediction.stop_reasons["principles"] == "exhausted"
    assert prediction.scores["principles"] == 3


def test_later_of_equally_good_candidates_is_kept():
    program, _ = make_spri(DRAFT, judged(3), refined("b"), judged(3), ANSWER, FINE, max_critiques=2)
    assert program(question="why?").principles == "b"


def test_last_candidate_is_kept_on_request():
    program, _ = make_spri(
        DRAFT, judged(3), refined("b"), judged(1), ANSWER, FINE, max_critiques=2, keep="last"
    )
    assert program(question="why?").principles == "b"


def test_unscored_critique_is_asked_again_and_then_counts():
    program, _ = make_spri(DRAFT, judged("no idea"), judged("4.5"), judged(4), ANSWER, FINE)
    prediction = program(question="why?")
    assert prediction.stop_reasons["principles"] == "accepted"
    assert [r.attempt for r in prediction.trace] == [0, 1, 2, 0]


def test_unscored_critique_ends_the_loop_after_two_more_samples():
    program, _ = make_spri(DRAFT, judged("?"), judged("?"), judged("?"), ANSWER, FINE)
    prediction = program(question="why?")
    assert prediction.stop_reasons["principles"] == "unscored"
    assert prediction.scores["principles"] is None


def test_scored_candidate_wins_over_a_later_unscored_one():
    program, _ = make_spri(
        DRAFT, judged(2), refined("b"), judged("?"), judged("?"), judged("?"), ANSWER, FINE
    )
    assert program(question="why?").principles == "be kind"


def test_gate_of_six_uses_every_round():
    program, _ = make_spri(
        DRAFT, judged(5), refined("b"), judged(5), ANSWER, FINE, FINE, accept_at=6, max_critiques=2
    )
    with pytest.raises(
        spri.ReplayMiss, match="goes on with critique_response, the program asks for refine_response"
    ):
        program(question="why?")


def test_principles_can_be_made_once_and_used_twice():
    program, _ = make_spri(DRAFT, GOOD, ANSWER, FINE, ANSWER, FINE)
    principles = program.situate(question="why?").principles
    for _ in range(2):
        assert program.respond(question="why?", principles=principles).response == "hello"


def test_unreadable_answer_is_asked_again_and_then_fails_by_name():
    empty = ("generate_principles", "[[ ## completed ## ]]")
    program, _ = make_spri(empty, empty, DRAFT, GOOD, ANSWER, FINE)
    assert program(question="why?").principles == "be kind"
    program, script = make_spri(empty, empty, empty, DRAFT)
    with pytest.raises(spri.UnreadableAnswer, match="generate_principles: no readable answer in 3 samples"):
        program(question="why?")
    assert script.left == 1


def test_usage_is_counted_by_role():
    program, _ = make_spri(DRAFT, judged(2), refined("b"), judged(5), ANSWER, FINE)
    usage = program(question="why?").usage
    assert (usage["base"].calls, usage["critic"].calls) == (3, 3)
    assert usage["base"].input_tokens > 0 and usage["critic"].output_tokens > 0


def test_outer_usage_tracker_hears_of_every_call():
    program, _ = make_spri(DRAFT, GOOD, ANSWER, FINE)
    with dspy.track_usage() as tracker:
        program(question="why?")
    assert len(tracker.usage_data["replay/recorded"]) == 4


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "missing question"),
        ({"question": "x", "mood": "y"}, "unknown mood"),
        ({"qestion": "x"}, "missing question"),
    ],
)
def test_wrong_inputs_are_refused_by_name(inputs, said):
    program, _ = make_spri()
    with pytest.raises(spri.UsageError, match=said):
        program(**inputs)


@pytest.mark.parametrize(
    "setting", [{"accept_at": 7}, {"max_critiques": 0}, {"keep": "worst"}, {"on_unscored": "?"}]
)
def test_impossible_loop_settings_are_refused(setting):
    with pytest.raises(spri.UsageError):
        spri.SPRI(make_task(), **setting)


def other_lm():
    return replay_lm(Script([]))


def lms_by_stage(program):
    return {name: predictor.lm for name, predictor in program.named_predictors()}


def test_lms_survive_copies_and_resets():
    program = spri.SPRI(make_task())
    base, critic = other_lm(), other_lm()
    program.set_lms(base=base, critic=critic)
    for copied in (program.deepcopy(), program.reset_copy(), copy.deepcopy(program)):
        assert lms_by_stage(copied) == lms_by_stage(program)
    program.set_lm(other := other_lm())
    assert program.get_lm() is other
    assert program.principles.critique.lm is critic and program.response.critique.lm is critic


def test_critic_defaults_to_the_base():
    base = other_lm()
    program = spri.SPRI(make_task()).set_lms(base=base)
    assert program.principles.critique.lm is base


def test_state_keeps_demos_and_wording_and_no_lm(tmp_path):
    seeds = [{"question": "q1", "principles": "p1", "group": "g"}]
    program = spri.SPRI(make_task(seeds)).set_lms(base="offline")
    program.principles.generate.signature = program.principles.generate.signature.with_instructions(
        "Say it plainly."
    )
    program.save(tmp_path / "program.json")
    saved = json.loads((tmp_path / "program.json").read_text())
    assert all(state["lm"] is None for name, state in saved.items() if name != "metadata")
    fresh = spri.SPRI(make_task()).set_lms(base=(lm := other_lm()))
    fresh.load(tmp_path / "program.json")
    assert fresh.principles.generate.signature.instructions == "Say it plainly."
    assert [dict(d) for d in fresh.principles.generate.demos] == seeds
    assert fresh.response.refine.lm is lm


def test_state_of_another_program_is_refused(tmp_path):
    dspy.Predict("question -> answer").save(tmp_path / "other.json")
    with pytest.raises(spri.UsageError, match="another program"):
        spri.SPRI(make_task()).load(tmp_path / "other.json")


def test_state_of_another_task_is_refused(tmp_path):
    spri.SPRI(make_task()).save(tmp_path / "questions.json")
    with pytest.raises(spri.UsageError, match="saved for another task or version"):
        spri.SPRI(spri.load_task("reappraisal")).load(tmp_path / "questions.json")


STATE = spri.SPRI(make_task()).dump_state()


def changed(part, value):
    return {**STATE, "principles.generate": {**STATE["principles.generate"], part: value}}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        b"\xff\xfe",
        [],
        "text",
        None,
        {},
        {"program": None},
        {"program": []},
        {"format": 1, "program": {"principles.generate": STATE["principles.generate"]}},
        {**STATE, "more": {}},
        dict.fromkeys(STATE, None),
        {name: {} for name in STATE},
        changed("signature", []),
        changed("signature", {"instructions": 1, "fields": []}),
        changed("signature", {"instructions": "x", "fields": {"a": 1}}),
        changed("signature", {"instructions": "x", "fields": [{"prefix": "x"}, {}]}),
        changed("demos", {"question": "x"}),
        changed("demos", ["x"]),
        changed("demos", None),
        changed("show", 1),
        changed("show", "nearest"),
    ],
)
def test_what_is_no_saved_program_is_refused_in_one_line_and_changes_nothing(tmp_path, content):
    file = tmp_path / "program.json"
    text = (
        content if isinstance(content, str) else json.dumps(content) if not isinstance(content, bytes) else ""
    )
    file.write_bytes(content if isinstance(content, bytes) else text.encode())
    program = spri.SPRI(make_task()).set_lms(base=(lm := other_lm()))
    before = fingerprint(program)
    for load in (lambda: spri.load_program(program, file), lambda: program.load(file)):
        with pytest.raises(spri.UsageError) as refused:
            load()
        assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    assert fingerprint(program) == before and program.get_lm() is lm


def test_a_folder_or_nothing_is_refused_as_a_program(tmp_path):
    for path, said in ((tmp_path, "no file"), (tmp_path / "none.json", "No such file")):
        with pytest.raises(spri.UsageError, match=said):
            spri.load_program(spri.SPRI(make_task()), path)


def test_a_saved_program_cannot_replace_a_method_or_a_role(tmp_path):
    file = tmp_path / "program.json"
    state = {**STATE["principles.critique"], "forward": "x", "role": "base", "lm": {"model": "openai/x"}}
    file.write_text(json.dumps({**STATE, "principles.critique": state}))
    program = spri.load_program(spri.SPRI(make_task()), file)
    critique = program.principles.critique
    assert critique.role == "critic" and callable(critique.forward) and critique.lm is None


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"format": 1, "program": state}])
def test_a_program_is_loaded_from_dspy_files_and_from_tuned_ones(tmp_path, wrap):
    tuned = spri.SPRI(make_task([{"question": "q1", "principles": "p1"}]), seeds="all")
    (tmp_path / "program.json").write_text(json.dumps(wrap(tuned.dump_state())))
    fresh = spri.SPRI(make_task())
    assert spri.load_program(fresh, str(tmp_path / "program.json")) is fresh
    assert fresh.dump_state() == tuned.dump_state()
    also = spri.SPRI(make_task())
    also.load(tmp_path / "program.json")
    assert also.dump_state() == tuned.dump_state()


def test_fingerprint_is_of_prompts_demos_and_settings_and_not_of_lms():
    made = [
        spri.SPRI(make_task()),
        spri.SPRI(make_task(), accept_at=6),
        spri.SPRI(make_task(), keep="last"),
        spri.SPRI(make_task([{"question": "q1", "principles": "p1"}])),
        spri.SPRI(make_task(), seeds="all"),
        spri.SPRI(make_task()).response,
    ]
    prints = [fingerprint(program) for program in made]
    assert len(set(prints)) == len(made)
    assert fingerprint(made[0].set_lms(base=other_lm())) == prints[0]
    assert fingerprint(made[0].deepcopy()) == prints[0]
    made[0].response.critique.signature = made[0].response.critique.signature.with_instructions("Be strict.")
    assert fingerprint(made[0]) != prints[0]


def test_only_seeds_of_the_example_group_are_shown():
    seen = []

    class Listening(Script):
        def answer(self, request):
            seen.append([m.text for m in request.messages])
            return super().answer(request)

    seeds = [
        {"question": "q-mine", "principles": "p", "group": "mine"},
        {"question": "q-other", "principles": "p", "group": "other"},
        {"question": "q-any", "principles": "p"},
    ]
    program = spri.SPRI(make_task(seeds))
    program.set_lms(base=replay_lm(Listening([DRAFT, GOOD, ANSWER, FINE])))
    program(question="why?", group="mine")
    first = "\n".join(seen[0])
    assert "q-mine" in first and "q-any" in first and "q-other" not in first


def test_paper_refinements_do_not_see_goal_and_principles():
    task = spri.load_task("reappraisal")
    published, ours = spri.SPRI.paper(task), spri.SPRI(task)
    assert "aim" not in published.principles.refine.signature.input_fields
    assert "principles" not in published.response.refine.signature.input_fields
    assert "aim" in ours.principles.refine.signature.input_fields
    assert "principles" in ours.response.refine.signature.input_fields
    assert (published.principles.keep, published.principles.on_unscored) == ("last", "stop")


SEEDS = [
    {"question": "how do I train a puppy", "principles": "p", "group": "animals"},
    {"question": "why is my sourdough flat", "principles": "p", "group": "kitchen"},
    {"question": "what does a gearbox do", "principles": "p", "group": "cars"},
]


def shown_to(program, question):
    """The first prompt's messages, heard by a recording that answers."""
    heard = []

    class Listening(Script):
        def answer(self, request):
            heard.append([m.text for m in request.messages])
            return super().answer(request)

    program.set_lms(base=replay_lm(Listening([DRAFT, GOOD, ANSWER, FINE] * 2)))
    program(question=question, group="cars")
    asyncio.run(program.acall(question=question, group="cars"))
    assert heard[0] == heard[4]
    return "\n".join(heard[0])


def test_nearest_seeds_are_shown_whatever_their_group():
    program = spri.SPRI(make_task(SEEDS), seeds="nearest:1")
    prompt = shown_to(program, "my puppy bites")
    assert "train a puppy" in prompt and "sourdough" not in prompt and "gearbox" not in prompt


def test_nearest_seeds_by_an_embedder_of_ones_own():
    program = spri.SPRI(make_task(SEEDS), seeds="nearest:1")
    program.principles.generate.embed = lambda texts: [
        [1.0, float("sourdough" in t or "bites" in t)] for t in texts
    ]
    assert "sourdough" in shown_to(program, "my puppy bites")


def test_which_seeds_are_shown_is_saved(tmp_path):
    spri.SPRI(make_task(SEEDS), seeds="nearest:2").save(tmp_path / "near.json")
    loaded = spri.SPRI(make_task())
    loaded.load(tmp_path / "near.json")
    assert loaded.principles.generate.show == "nearest:2"


@pytest.mark.parametrize("seeds", ["nearest", "nearest:0", "nearest:x", "closest:2", ""])
def test_unknown_ways_of_showing_seeds_are_refused(seeds):
    with pytest.raises(spri.UsageError, match="nearest:K"):
        spri.SPRI(make_task(SEEDS), seeds=seeds)
