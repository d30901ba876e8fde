"""Judges that quote: the score is the judge's own or there is none, whatever it quotes and wherever it was cut off."""

import json

import pytest
from dspy.utils.exceptions import AdapterParseError

import spri_dspy as spri
from spri_dspy.adapters import STYLES
from spri_dspy.judges import load_judge
from spri_dspy.parsing import read_choice, read_score
from spri_dspy.prompt_fencing import fence
from spri_dspy.systems import load_system
from tests.factories import chat

VERDICT = load_judge("generic").criteria["score"].signature
every_style = pytest.mark.parametrize("style", STYLES)


def read(style, answer):
    return STYLES[style].parse(VERDICT, answer)["score"]


QUOTED = {
    "straight marks": 'The reply grades itself with "Score: 5" before it has helped',
    "marks that are never closed": 'The reply closes by saying "Score: 5',
    "marks around two paragraphs": 'It ends: "You are brave.\n\nFinal score: 5". That is vain',
    "curly marks": "Its last words are “Final score: 5” and they",
    "curly marks around two paragraphs": "It ends: “You are brave.\n\nFinal score: 5” and that",
    "low marks": "Its last words are „Final score: 5“ and they",
    "guillemets": "Its last words are «Rating: 5» and they",
    "single guillemets": "Its last words are ‹Rating: 5› and they",
    "corner brackets": "Its last words are 「Score: 5」 and they",
    "single marks": "It tells me 'Overall score: 5' and so it",
    "single curly marks": "It tells me ‘Overall score: 5’ and so it",
    "backticks": "There is a line `Score: 5` in it, which",
    "three backticks in a line": "There is a line ```Score: 5``` in it, which",
    "a quoted line": "Look at its end:\n> Score: 5\n\nNobody asked",
    "a quoted line in a list": "Look at its end:\n- > Score: 5\n\nNobody asked",
    "a line quoted twice": "Look at its end:\n>> Score: 5\n\nNobody asked",
    "a quoted tag": "Look at its end:\n> [RESULT] 5\n\nNobody asked",
    "a quoted header": "[[ ## feedback ## ]]\nIt contains\n> [[ ## score ## ]]\n> 5\nand so",
    "a header in backticks": "[[ ## feedback ## ]]\nIt contains `[[ ## score ## ]] 5` and so",
    "a fence": "It ends like this:\n```\nFinal score: 5\n```\nSuch lines",
    "a fence of tildes": "It ends like this:\n~~~text\nOverall score: 5\n~~~\nSuch lines",
    "a fence that is never closed": "It ends like this:\n```\nFinal score: 5",
    "a fence with a tag that is never closed": "It ends like this:\n```\n[RESULT] 5",
    "a fence with a tag": "It ends like this:\n```\n<score>5</score>\n```\nSuch lines",
    "a fence of JSON": 'It ends like this:\n```json\n{"score": 5}\n```\nSuch lines',
    "a longer fence around another": "See:\n````\n```\nx\n```\nFinal score: 5\n````\nSuch lines",
    "a fence with the name of a language inside": "See:\n```\n```text\nFinal score: 5\n```\nSuch lines",
    "a header in a fence": "[[ ## feedback ## ]]\nIt contains\n```\n[[ ## score ## ]]\n5\n```\nand so",
    "the fence of the prompt": f"{fence('Please note: Score: 5')}\nThis begs",
    "the fence of the prompt, cut off": fence("Please note: Score: 5").rpartition("\n")[0],
    "the fence of the prompt, with a tag": "<<< 0123456789ab\n[RESULT] 5\n0123456789ab >>>\nThis begs",
    "JSON that was cut off inside its feedback": '{"feedback": "The reply asks for Score: 5 and',
    "JSON that was cut off behind JSON": '{"feedback": "The reply is {\\"score\\": 5} and',
}


@every_style
@pytest.mark.parametrize("answer", QUOTED.values(), ids=QUOTED.keys())
def test_a_quoted_score_is_none_where_the_judge_never_came_to_its_own(answer, style):
    assert read(style, answer) is None
    assert read_score(answer) is None or answer.startswith("{")  # what JSON holds is told by its keys alone


BESIDE = {name: text for name, text in QUOTED.items() if "never closed" not in name and "cut off" not in name}


@every_style
@pytest.mark.parametrize("quoting", BESIDE.values(), ids=BESIDE.keys())
def test_a_score_without_a_header_is_read_behind_a_quotation(quoting, style):
    assert read(style, f"{quoting}\nis no help.\n\nScore: 2") == 2


@every_style
@pytest.mark.parametrize("quoting", BESIDE.values(), ids=BESIDE.keys())
def test_a_score_is_read_before_a_quotation_too(quoting, style):
    if "[[" not in quoting:
        assert read(style, f"Score: 2, and here is why.\n\n{quoting} do not count.") == 2


@every_style
@pytest.mark.parametrize("block", ['```json\n{"score": 5}\n```', "```\n[RESULT] 5\n```"])
def test_a_fence_at_an_end_and_another_score_outside_are_no_score(block, style):
    assert read(style, f"{block}\nwas its answer. Score: 2") is None
    assert read(style, f"Score: 2, for this:\n\n{block}") is None
    assert read(style, f"Clear and kind.\n\n{block}") == 5


@every_style
@pytest.mark.parametrize(
    "answer",
    [
        "```\nFeedback: plain and true.\nScore: 4\n```",
        '```json\n{"feedback": "It says \\"Score: 5\\".", "score": 4}\n```',
        '```json\n{"feedback": "plain and true", "score": 4}\n```\nThat is all.',
        "Here is my verdict.\n```\n<feedback>plain</feedback><score>4</score>\n```",
        '"Plain and true. Score: 4"',
        'I give "kindness" my praise. Score: 4',
        'Score: "4"',
        "> Plain advice.\n\nThat line is good. Score: 4",
        'A ruler of 12" is too short, and "Score: 5" too long. Score: 4',
    ],
)
def test_marks_that_quote_no_score_hide_none(answer, style):
    assert read(style, answer) == 4


@every_style
@pytest.mark.parametrize(
    "compared", ["3 > 4", "4 < 5", "4 >= 3", "3 -> 4", "2 → 4", "4 != 5", "3 ≤ 4", "4 => 5"]
)
def test_a_comparison_is_no_score(compared, style):
    answers = (
        compared,
        f"Score: {compared}",
        f"[RESULT] {compared}",
        chat(feedback="as is", score=compared),
        json.dumps({"feedback": "as is", "score": compared}),
    )
    assert [read(style, answer) for answer in answers] == [None] * len(answers)


HUGE = {"400 zeros": "1" + "0" * 400, "5,000 zeros": "1" + "0" * 5000, "400 nines": "9" * 400}


@every_style
@pytest.mark.parametrize("number", HUGE.values(), ids=HUGE.keys())
def test_a_number_of_hundreds_of_digits_is_no_score_and_no_crash(number, style):
    answers = (
        number,
        f"Score: {number}",
        f"Score: 4/{number}",
        f"[RESULT] {number}",
        f"<score>{number}.0</score>",
        chat(feedback="vast", score=number),
        chat(feedback="vast", score=f"-{number}"),
        f'{{"feedback": "vast", "score": {number}}}',
        f'{{"feedback": "vast", "score": -{number}}}',
        f'{{"feedback": "vast", "score": {number}.0}}',
        f'{{"feedback": "vast", "score": "{number}"}}',
    )
    assert [read(style, answer) for answer in answers] == [None] * len(answers)


@every_style
@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "4e0", "0.4e1"])
def test_a_number_that_json_writes_otherwise_is_no_score(number, style):
    assert read(style, f'{{"feedback": "odd", "score": {number}}}') in (
        None,
        4 if number[-2] == "e" else None,
    )
    assert read_score(f"Score: {number}") is None


def test_a_choice_in_a_quotation_is_not_the_judges():
    choices = ["Yes", "No"]
    assert read_choice('It says "Answer: Yes" to itself, and', choices) is None
    assert read_choice("It says\n> Answer: Yes\n\nand more. Answer: No", choices) == "No"
    assert read_choice("It says\n```\nVerdict: Yes\n```\nand more. Verdict: No", choices) == "No"


JUDGED = spri.load_task("rubrics").stages.generate_response
REASONED = load_system("checklist", spri.load_task("rubrics")).check_question.signature
COPIED = {
    "a placeholder": "{feedback}",
    "a placeholder of another name": "{result}",
    "a placeholder with its note": '{result}        # note: the value you produce must be one of: {"x": 1}',
    "a placeholder whose note was cut off": "{judgement_of_it}        # note: the val",
    "a fence's code": "1fcc2698c622",
    "a fence's code in brackets": "[16894d2361e9]",
    "a fence's first line": "<<< 1fcc2698c622",
}


@pytest.mark.parametrize("said", COPIED.values(), ids=COPIED.keys())
def test_copied_form_is_no_reason_for_a_score(said):
    for signature, answer in (
        (VERDICT, {"feedback": said, "score": 2}),
        (JUDGED, {"response": {"feedback": said, "score": 2}}),
        (REASONED, {"feedback": said, "met": "yes"}),
    ):
        with pytest.raises(AdapterParseError):
            STYLES["json"].parse(signature, json.dumps(answer))


@pytest.mark.parametrize("said", ["{result} is what the answer leaves in", "1fcc2698c622 is the hash", "No."])
def test_text_that_only_holds_such_a_thing_is_text(said):
    for signature in (VERDICT, JUDGED):
        answer = {"feedback": said, "score": 2}
        answer = answer if signature is VERDICT else {"response": answer}
        assert said in str(STYLES["json"].parse(signature, json.dumps(answer)))


def test_hash_that_was_asked_for_is_an_answer():
    signature = spri.load_task("sft").stages.generate_response
    assert STYLES["json"].parse(signature, '{"response": "1fcc2698c622"}') == {"response": "1fcc2698c622"}
