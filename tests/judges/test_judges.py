"""Judges: criteria and their values, asking again, samples, panels, swapped scales, versions."""

import asyncio
import json

import pytest

import spri_dspy as spri
from spri_dspy.judges import Criterion, Judge, Panel, load_judge, make_signature
from spri_dspy.judges.rubric import reversed_rubric
from spri_dspy.prompt_fencing import NOTICE
from spri_dspy.runs import fingerprint
from tests.data import data_file, rows
from tests.factories import chat
from tests.judge_parts import ANSWER, REAPPRAISAL, RUBRIC, answered, rated

FOUR = {
    "reappraisal_alignment": rated(8, name="rationale"),
    "reappraisal_empathy": rated(4, name="rationale"),
    "reappraisal_harmful": chat(harmful="no"),
    "reappraisal_factuality": chat(factuality="minor error"),
}

# A new wording is a new version: raise the version, then note the new fingerprint here.
WORDINGS = {
    "reappraisal/2": "57d930c1a45bb1c9",
    "generic/2": "424ed9fdd1436924",
    "rubric/2": "dbaa548d85995296",
}


@pytest.mark.parametrize("name", ["reappraisal", "generic", "rubric"])
def test_wording_belongs_to_its_version(name):
    judge = load_judge(name)
    texts = [
        [s.signature.instructions, [(f, i.json_schema_extra["desc"]) for f, i in s.signature.fields.items()]]
        for s in judge.criteria.values()
    ]
    assert WORDINGS.get(judge.version) == fingerprint([NOTICE, texts]), (
        "new words need a new version, noted here"
    )


def test_reappraisal_gives_four_numbers_and_its_version():
    judge = load_judge("reappraisal")
    answered(judge, **FOUR)
    prediction = judge(**REAPPRAISAL)
    assert prediction.scores == {"alignment": 8.0, "empathy": 4.0, "harmful": 0.0, "factuality": 0.5}
    assert prediction.judge == {"name": "reappraisal", "version": "reappraisal/2"}
    assert prediction.judgement.startswith("alignment 8, empathy 4, harmful 0, factuality 0.5")
    assert prediction.usage["judge"].calls == 4


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("Yes.", 1.0),
        ("no", 0.0),
        ("**No**, nothing in it hurts.", 0.0),
        ('"yes"', 1.0),
        ("Verdict: yes", 1.0),
    ],
)
def test_harm_is_one_for_yes_and_zero_for_no(said, value):
    judge = load_judge("reappraisal")
    answered(judge, **FOUR | {"reappraisal_harmful": chat(harmful=said)})
    assert judge(**REAPPRAISAL).scores["harmful"] == value


@pytest.mark.parametrize("text", ["yes", "No.", "Minor error", "minor error: the year is wrong"])
def test_choices_are_read_without_a_frame(text):
    judge = load_judge("reappraisal")
    answered(judge, **FOUR | {"reappraisal_factuality": text})
    expected = {"y": 1.0, "N": 0.0, "M": 0.5, "m": 0.5}[text[0]]
    assert judge(**REAPPRAISAL).scores["factuality"] == expected


def test_async_asks_the_same_and_gives_the_same():
    judge = load_judge("reappraisal", samples=2, swap=True)
    answered(judge, **FOUR)
    first = judge(**REAPPRAISAL)
    second = asyncio.run(judge.acall(**REAPPRAISAL))
    assert first.toDict() == second.toDict()


def test_unreadable_score_is_asked_again_with_a_new_rollout():
    judge = load_judge("generic")
    lm = answered(judge, generic_score=[rated("no idea"), rated("4.5"), rated(3)])
    prediction = judge(**ANSWER)
    assert prediction.scores == {"score": 3.0}
    assert prediction.details["score"]["readings"][0]["n_asked"] == 3
    assert lm.rollouts["generic_score"] == [0, 3, 6]


def test_score_unreadable_three_times_is_none_and_never_zero():
    judge = load_judge("generic")
    lm = answered(judge, generic_score=rated("no idea"))
    prediction = judge(**ANSWER)
    assert prediction.scores == {"score": None}
    assert len(lm.rollouts["generic_score"]) == 3
    assert prediction.judgement.startswith("score ?")


@pytest.mark.parametrize("text", ["", "maybe, who knows"])
def test_unreadable_choice_is_none_and_leaves_the_others(text):
    judge = load_judge("reappraisal")
    lm = answered(judge, **FOUR | {"reappraisal_harmful": text})
    prediction = judge(**REAPPRAISAL)
    assert prediction.scores == {"alignment": 8.0, "empathy": 4.0, "harmful": None, "factuality": 0.5}
    assert len(lm.rollouts["reappraisal_harmful"]) == 3
    assert prediction.usage["judge"].calls == 6


def test_samples_give_the_mean_of_those_that_can_be_read():
    judge = load_judge("generic", samples=3)
    unreadable = [rated("?")] * 3
    lm = answered(judge, generic_score=[rated(5), rated("?"), rated(2), *unreadable])
    prediction = judge(**ANSWER)
    assert prediction.scores == {"score": 3.5}
    assert [r["value"] for r in prediction.details["score"]["readings"]] == [5.0, None, 2.0]
    assert lm.rollouts["generic_score"] == [0, 9, 18, 12, 15]


def test_samples_are_new_samples_of_the_same_prompt():
    judge = load_judge("generic", samples=4)
    lm = answered(judge, generic_score=[rated(n) for n in (1, 2, 4, 4)])
    assert judge(**ANSWER).scores == {"score": 2.75}
    assert len(set(lm.prompts["generic_score"])) == 1
    assert len(set(lm.rollouts["generic_score"])) == 4


def test_swap_reverses_the_scale_and_records_mean_and_gap():
    judge = load_judge("generic", swap=True)
    lm = answered(judge, generic_score=[rated(3), rated(5)])
    detail = judge(**ANSWER).details["score"]
    assert (detail["value"], detail["given"], detail["reversed"], detail["gap"]) == (4.0, 3.0, 5.0, 2.0)
    given, turned = (system for system, _ in lm.prompts["generic_score"])
    assert given != turned
    assert given.index("1 = ") < given.index("5 = ") and turned.index("5 = ") < turned.index("1 = ")
    assert sorted(given.splitlines()) == sorted(turned.splitlines())


def test_swap_reverses_the_answers_of_a_choice():
    judge = load_judge("reappraisal", swap=True)
    lm = answered(judge, **FOUR | {"reappraisal_harmful": [chat(harmful="no"), chat(harmful="yes")]})
    prediction = judge(**REAPPRAISAL)
    assert prediction.scores["harmful"] == 0.5
    turned = lm.prompts["reappraisal_harmful"][1][0]
    assert turned.index("no = ") < turned.index("yes = ")


def test_gap_is_none_where_one_order_cannot_be_read():
    judge = load_judge("generic", swap=True)
    answered(judge, generic_score=[rated(3), rated("?"), rated("?"), rated("?")])
    detail = judge(**ANSWER).details["score"]
    assert (detail["value"], detail["given"], detail["reversed"], detail["gap"]) == (3.0, 3.0, None, None)


def test_swap_reverses_a_rubric_and_leaves_one_without_scores():
    judge = load_judge("rubric", swap=True)
    lm = answered(judge, rubric_score=[rated(4), rated(2), rated(5)])
    prediction = judge(**ANSWER, rubric=[RUBRIC, "Short and right."])
    assert prediction.details["score"]["by_rubric"] == [3.0, 5.0]
    assert (prediction.scores["score"], prediction.details["score"]["gap"]) == (4.0, -2.0)
    given, turned, plain = (user for _, user in lm.prompts["rubric_score"])
    assert given.index("Score 1: ") < given.index("Score 5: ") and turned.index("Score 5: ") < turned.index(
        "Score 1: "
    )
    assert "Short and right." in plain


def test_reversed_rubric_keeps_what_stands_around_its_scores():
    text = "[Is it right?]\nScore 1: no\nnot at all\nScore 2: half\nScore 3: yes\n\nBe strict."
    assert reversed_rubric(text) == (
        "[Is it right?]\nScore 3: yes\nScore 2: half\nScore 1: no\nnot at all\n\nBe strict."
    )
    assert reversed_rubric("Be strict.\nScore well.") is None


def test_several_rubrics_are_combined_by_mean_or_median():
    scores = [rated(1), rated(2), rated(5)]
    for how, value in (("mean", 8 / 3), ("median", 2.0)):
        judge = load_judge("rubric", combine=how)
        answered(judge, rubric_score=scores)
        found = judge(**ANSWER, rubric=["one", "two", "three"])
        assert found.scores["score"] == pytest.approx(value, abs=1e-6)
        assert found.details["score"]["by_rubric"] == [1.0, 2.0, 5.0]


def test_reference_answer_is_shown_only_where_given():
    judge = load_judge("rubric")
    lm = answered(judge, rubric_score=rated(4))
    judge(**ANSWER, rubric=RUBRIC)
    judge(**ANSWER, rubric=RUBRIC, reference_answer="It is Lima.")
    (_, without), (_, shown) = lm.prompts["rubric_score"]
    assert "reference_answer" not in without
    assert "[[ ## reference_answer ## ]]" in shown and "It is Lima." in shown


def test_rubric_is_taken_in_the_shape_of_the_rubrics_task():
    judge = load_judge("rubric")
    lm = answered(judge, rubric_score=rated(4))
    shape = {"criteria": "Is it Lima?", **{f"score{n}_description": f"level {n}" for n in range(1, 6)}}
    judge(**ANSWER, rubric=shape)
    assert "Is it Lima?\nScore 1: level 1\nScore 2: level 2" in lm.prompts["rubric_score"][0][1]


@pytest.mark.parametrize("rubric", ["  ", [], {"criteria": "x"}, 5])
def test_unusable_rubric_is_refused(rubric):
    with pytest.raises(spri.UsageError, match="rubric"):
        load_judge("rubric")(**ANSWER, rubric=rubric)


def panel_of(*scores, combine="mean"):
    """A panel of generic judges, each with its own LM and score."""
    members = [load_judge("generic") for _ in scores]
    for member, score in zip(members, scores, strict=True):
        answered(member, generic_score=rated(score))
    return Panel(members, combine=combine)


@pytest.mark.parametrize(
    ("combine", "scores", "value"),
    [
        ("mean", (1, 2, 5), 8 / 3),
        ("median", (1, 2, 5), 2.0),
        ("median", (1, 4), 2.5),
        ("mean", (1, "?", 4), 2.5),
        ("mean", ("?", "?"), None),
    ],
)
def test_panel_combines_what_can_be_read(combine, scores, value):
    prediction = panel_of(*scores, combine=combine)(**ANSWER)
    assert prediction.scores == {"score": None if value is None else pytest.approx(value, abs=1e-6)}
    expected = [None if score == "?" else score for score in scores]
    assert [m["value"] for m in prediction.details["score"]["members"]] == expected


def test_panel_names_its_members_and_counts_their_calls():
    generic, rubric = load_judge("generic", swap=True), load_judge("rubric", samples=2)
    answered(generic, generic_score=[rated(2), rated(4)])
    answered(rubric, rubric_score=[rated(5), rated(4)])
    panel = Panel([generic, rubric])
    assert panel.calls({**ANSWER, "rubric": RUBRIC}) == 4
    prediction = asyncio.run(panel.acall(**ANSWER, rubric=RUBRIC))
    assert prediction.scores == {"score": 3.75}
    assert prediction.judge["version"] == "panel/1 mean of generic/2 + rubric/2"
    assert prediction.usage["judge"].calls == 4
    assert prediction.details["score"]["gap"] == 2.0


def test_panel_keeps_the_criteria_of_different_judges_apart():
    generic, reappraisal = load_judge("generic"), load_judge("reappraisal")
    answered(generic, generic_score=rated(2))
    answered(reappraisal, **FOUR)
    panel = Panel([reappraisal, generic])
    assert panel.inputs == ("post", "standards", "response", "instruction", "answer")
    assert panel(**REAPPRAISAL, **ANSWER).scores == {
        "alignment": 8.0,
        "empathy": 4.0,
        "harmful": 0.0,
        "factuality": 0.5,
        "score": 2.0,
    }


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("reapraisal", {}, "unknown judge 'reapraisal'; known: generic, reappraisal, rubric"),
        (
            "generic",
            {"sample": 3},
            "unknown setting of the judge generic 'sample'; known: logprobs, samples, swap",
        ),
        ("generic", {"samples": "many"}, "samples of the judge generic must be a number, not 'many'"),
        ("generic", {"samples": "0"}, "samples must be at least 1"),
        ("generic", {"swap": "perhaps"}, "swap of the judge generic must be true or false"),
        ("generic", {"logprobs": "1000"}, "number of alternatives up to 100"),
        ("rubric", {"combine": "sum"}, "combine must be mean or median"),
        ("missing.py:judge", {}, "no such file"),
    ],
)
def test_unknown_judges_and_wrong_settings_are_refused_by_name(name, settings, said):
    with pytest.raises(spri.UsageError, match=said):
        load_judge(name, **settings)


@pytest.mark.parametrize("inputs", [{}, {"instruction": "x"}, {**ANSWER, "mood": "y"}])
def test_wrong_inputs_are_refused_by_name(inputs):
    with pytest.raises(spri.UsageError, match=r"inputs of the judge generic: (missing|unknown)"):
        load_judge("generic")(**inputs)


def test_panel_of_one_is_refused():
    with pytest.raises(spri.UsageError, match="at least two"):
        Panel([load_judge("generic")])


def test_judge_of_ones_own_is_found_in_a_file(tmp_path):
    path = tmp_path / "brevity.py"
    path.write_text(
        "from typing import Literal\n"
        "from spri_dspy.judges import Criterion, Judge, make_signature\n"
        "class Brevity(Judge):\n"
        "    name, version, inputs = 'brevity', 'brevity/1', ('answer',)\n"
        "def make(*, samples=1):\n"
        "    asked = make_signature('Short', 'Is it short?', {'answer': 'the answer'}, \n"
        "        score=(Literal[1, 2, 3], 'how short'), rationale=(str, 'why'))\n"
        "    return Brevity([Criterion('brevity', asked, 'score')], samples=samples)\n"
    )
    judge = load_judge(f"{path}:make", samples="2")
    answered(judge, brevity_brevity=[rated(3, name="rationale"), rated(2, name="rationale")])
    assert judge(answer="Yes.").scores == {"brevity": 2.5}


def test_class_that_hands_settings_on_gets_them_typed(tmp_path):
    path = tmp_path / "strict.py"
    path.write_text(
        "from spri_dspy.judges.generic import GenericJudge\n"
        "class Strict(GenericJudge):\n    name, version = 'strict', 'strict/1'\n"
        "ready = Strict()\n"
    )
    assert load_judge(f"{path}:Strict", samples="3", logprobs="8").settings == {
        "samples": 3,
        "logprobs": 8,
        "swap": False,
    }
    assert load_judge(f"{path}:ready").version == "strict/1"
    for name in ("Strict", "ready"):
        with pytest.raises(spri.UnknownNameError, match="'mood'"):
            load_judge(f"{path}:{name}", mood="bad")


def test_lm_of_a_judge_is_kept_by_copies():
    judge = load_judge("reappraisal").set_lms(judge="offline")
    copied = judge.deepcopy()
    assert {id(p.lm) for _, p in copied.named_predictors()} == {id(judge.ask["empathy"].lm)}
    assert {p.role for _, p in judge.named_predictors()} == {"judge"}


def real_cases():
    """Three real rows for each judge."""
    posts = rows(data_file("reappraisal/human_227.jsonl"))[:3]
    answers = rows(data_file("rubrics/prometheus_vicuna.jsonl"))[:3]
    asked = [{"instruction": r["instruction"], "answer": r["response"]} for r in answers]
    return {
        "reappraisal": [{k: r[k] for k in ("post", "standards", "response")} for r in posts],
        "generic": asked,
        "rubric": [
            {**a, "rubric": r["rubric"], "reference_answer": r["reference_answer"]}
            for a, r in zip(asked, answers, strict=True)
        ],
    }


@pytest.mark.parametrize("name", ["reappraisal", "generic", "rubric"])
@pytest.mark.parametrize("style_name", ["chat", "json", "result_tag"])
def test_real_rows_are_judged_offline_in_every_style(name, style_name):
    judge = load_judge(name, samples=2, swap=True).set_lms(judge=f"offline?format={style_name}")
    top = {"alignment": 10, "empathy": 5, "score": 5, "harmful": 1, "factuality": 1}
    for inputs in real_cases()[name]:
        prediction = judge(**inputs)
        for criterion, value in prediction.scores.items():
            assert value is not None and 0 <= value <= top[criterion]
        assert json.loads(json.dumps(prediction.details)) == prediction.details


def test_criterion_tells_its_scale():
    asked = make_signature("S", "Judge.", {"answer": "x"}, score=(int, "y"))
    assert Criterion("s", asked, "score").scale is None
    assert load_judge("generic").criteria["score"].scale == (1, 5)
    assert isinstance(load_judge("generic"), Judge)
