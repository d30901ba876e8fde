"""MT-Bench and FLASK: one rubric for everything, or one a capability."""

import pytest

import spri_dspy as spri
from tests.systems.heard import ANSWERED, judged, make

# Source: paper.md section 2, task 2.
SKILLS = {
    "grounding": "comprehension",
    "instruction_following": "comprehension",
    "tool_usage": "comprehension",
    "reasoning": "logical_robustness",
    "planning": "insightfulness",
    "refinement": "commonsense",
    "safety": "harmlessness",
    "theory_of_mind": "metacognition",
}


def test_coarse_rubric_is_the_same_for_every_instruction():
    program, script = make("rubrics", "mt_bench", judged(3), judged(5))
    first = program(**ANSWERED, group="safety")
    second = program(instruction="Name a tree.", answer="Oak", group="planning")
    assert first.principles == second.principles
    assert (first.response.score, second.response.score) == (3, 5)
    assert all(first.principles.criteria in prompt for prompt in script.prompts)


def test_capabilities_of_one_skill_share_its_rubric():
    program, script = make("rubrics", "flask", *[judged()] * len(SKILLS))
    rubrics = {capability: program(**ANSWERED, group=capability).principles for capability in SKILLS}
    for prompt, (capability, rubric) in zip(script.prompts, rubrics.items(), strict=True):
        assert rubric.criteria in prompt
        for other, others in rubrics.items():
            assert (rubric == others) is (SKILLS[capability] == SKILLS[other])


@pytest.mark.parametrize(
    ("group", "said"), [("multilingual", "the capability 'multilingual'"), (None, "without a capability")]
)
def test_capability_that_no_skill_covers_is_refused_with_the_map(group, said):
    program, script = make("rubrics", "flask")
    with pytest.raises(spri.UsageError, match=f"{said}.*planning.*insightfulness"):
        program(**ANSWERED, group=group)
    assert script.prompts == []


def test_reference_answer_is_shown_to_the_judge():
    program, script = make("rubrics", "mt_bench", judged(), with_reference=True)
    program(**ANSWERED, reference_answer="Rayleigh scattering.")
    assert "Rayleigh scattering." in script.prompts[0]
