"""Self-instruct and self-align: what stands in the prompt before the instruction."""

from spri_dspy.tasks.fields import package_rows
from tests.systems.heard import ASKED, drafted, make


def test_solved_tasks_come_before_the_instruction():
    program, script = make("sft", "self_instruct", drafted("scattering"))
    prediction = program(**ASKED)
    prompt = script.prompts[0]
    for row in package_rows("seeds/self_instruct.jsonl"):
        for text in (row["instruction"], row["input"], row["output"]):
            assert text in prompt
            assert prompt.index(text) < prompt.index(ASKED["instruction"])
    assert prediction.response == "scattering"


def test_sixteen_rules_stand_in_the_prompt():
    program, script = make("sft", "self_align", drafted("scattering"))
    prediction = program(**ASKED)
    rules = package_rows("seeds/self_align.jsonl")
    assert len(rules) == 16
    for row in rules:
        assert row["rule"] in script.prompts[0] and row["rule"] in prediction.principles
    assert prediction.response == "scattering"
