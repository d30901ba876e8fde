"""RRD: samples, splitting, dropping, weights; every step on scripted answers."""

import pytest

import spri_dspy as spri
from spri_dspy.systems.rrd import weights_of
from tests.factories import chat
from tests.systems.heard import ANSWERED, make

DRAFTS = [("draft_sample", chat(draft="with care")), ("draft_hasty_sample", chat(draft="in haste"))]


def criteria(*texts, stage="generate_criteria"):
    return (stage, chat(criteria="\n".join(texts)))


def split(*texts):
    return criteria(*texts, stage="split_criterion")


def checks(answers):
    """One check a letter: y, n, or ? for what cannot be read."""
    words = {"y": "yes", "n": "no", "?": "perhaps"}
    samples = [3 * each if each == "?" else each for each in answers]
    return [("check_criterion", chat(feedback="so", met=words[each])) for each in "".join(samples)]


def same(met):
    return ("compare_criteria", chat(feedback="near", met=met))


def test_easy_is_split_wrong_and_same_dropped_and_the_rest_weighed():
    calls = [
        *DRAFTS,
        criteria("easy", "sharp", "upside down"),
        *checks("yyn" + "yny"),  # the careful sample, then the hasty one
        split("easy one", "easy two"),
        *checks("yy" + "ny"),
        same("yes"),  # sharp is answered as easy one is
        *checks("yn"),
    ]
    program, script = make("rubrics", "rrd", *calls, samples="2")
    found = program(**ANSWERED)
    assert script.left == 0
    assert found.split == [{"criterion": "easy", "parts": ["easy one", "easy two"]}]
    assert found.dropped == [
        {"criterion": "upside down", "reason": "prefers weaker answers", "gap": -1},
        {"criterion": "sharp", "reason": "says the same as another"},
    ]
    assert [(c["criterion"], c["weight"], c["met"]) for c in found.criteria] == [
        ("easy one", 0.5, True),
        ("easy two", 0.5, False),
    ]
    assert (found.share, found.response.score) == (0.5, 3)
    assert found.principles == "1. easy one (weight 0.50)\n2. easy two (weight 0.50)"


def test_only_the_last_checks_are_shown_the_answer_and_only_they_differ_between_answers():
    calls = [*DRAFTS, criteria("aa", "bb"), *checks("yn" + "nn"), *checks("yn")]
    program, script = make("rubrics", "rrd", *calls, samples="2")
    program(**ANSWERED)
    assert [ANSWERED["answer"] in prompt for prompt in script.prompts] == [False] * 7 + [True] * 2
    assert "with care" in script.prompts[2] and "in haste" in script.prompts[2]
    shown = [("with care" in prompt, "in haste" in prompt) for prompt in script.prompts[3:7]]
    assert shown == [(True, False)] * 2 + [(False, True)] * 2


def test_criteria_that_differ_on_a_sample_are_not_asked_about():
    calls = [*DRAFTS, criteria("aa", "bb", "cc"), *checks("ynn" + "nnn"), same("no"), *checks("yyy")]
    program, script = make("rubrics", "rrd", *calls, samples="2")
    found = program(**ANSWERED)
    assert script.left == 0 and found.dropped == [] and found.share == 1


def test_where_all_prefer_weaker_answers_the_least_bad_stay():
    drafts = [DRAFTS[0], DRAFTS[1], *DRAFTS]
    calls = [
        *drafts,
        criteria("aa", "bb"),
        *checks("nn" + "yy" + "ny" + "yn"),  # careful, hasty, careful, hasty
        *checks("y"),
    ]
    program, script = make("rubrics", "rrd", *calls, samples="4", depth="0")
    found = program(**ANSWERED)
    assert [c["criterion"] for c in found.criteria] == ["bb"] and script.left == 0
    assert [(d["criterion"], d["gap"]) for d in found.dropped] == [("aa", -1)]


def test_answers_that_cannot_be_read_count_for_nothing():
    calls = [*DRAFTS, criteria("aa", "bb"), *checks("?n" + "nn"), *checks("y?")]
    program, script = make("rubrics", "rrd", *calls, samples="2")
    found = program(**ANSWERED)
    assert script.left == 0 and found.dropped == []
    assert [c["met"] for c in found.criteria] == [True, None]
    assert (found.share, found.response.score) == (1, 5)


def test_criterion_that_cannot_be_split_stands_as_it_is():
    calls = [*DRAFTS, criteria("easy"), *checks("yy"), *[split("easy still")] * 3, *checks("y")]
    program, script = make("rubrics", "rrd", *calls, samples="2")
    found = program(**ANSWERED)
    assert script.left == 0 and found.split == []
    assert [c["criterion"] for c in found.criteria] == ["easy"]


def test_parts_are_split_in_their_turn_as_deep_as_asked():
    calls = [
        *[*DRAFTS, criteria("easy"), *checks("yy")],
        *[split("part one", "part two"), *checks("yy" + "yn")],
        *[split("first of one", "second of one"), *checks("yn" + "nn")],
        same("no"),  # part two is answered as the first of part one is
        *checks("yyy"),
    ]
    program, script = make("rubrics", "rrd", *calls, samples="2", depth="2")
    found = program(**ANSWERED)
    assert script.left == 0
    assert [each["criterion"] for each in found.split] == ["easy", "part one"]
    assert [c["criterion"] for c in found.criteria] == ["first of one", "second of one", "part two"]


def test_what_goes_together_counts_about_once():
    together, apart = [True, False, True, False], [True, True, False, False]
    assert weights_of([together, together, apart]) == pytest.approx([0.25, 0.25, 0.5])
    against = [False, True, False, True]
    assert weights_of([together, against]) == [0.5, 0.5]
    assert weights_of([together, [True] * 4]) == [0.5, 0.5]
    assert weights_of([[True, None, False, None], together]) == [0.5, 0.5]
    assert weights_of([[True, False, None, None], together, apart])[2] == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"samples": "3"}, {"samples": "0"}, {"most": "0"}, {"depth": "-1"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(spri.UsageError, match="samples must be even and at least 2"):
        make("rubrics", "rrd", **wrong)
