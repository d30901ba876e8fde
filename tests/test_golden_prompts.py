"""Every prompt as a model reads it, kept as a file.

The six stages of the reappraisal task in the three styles, with one seed, and the two refinements as published.
After a change that is meant: `SPRI_UPDATE_GOLDEN=1 pytest tests/test_golden_prompts.py`, then read the difference.
"""

import difflib
import os
from dataclasses import replace
from pathlib import Path

import pytest

import spri_dspy as spri
from spri_dspy.adapters import STYLES, style
from spri_dspy.lms.replay import replay_lm
from spri_dspy.lms.spec import CALL
from spri_dspy.signatures import BASE

GOLDEN = Path(__file__).parent / "golden" / "prompts"
AIM = "Help the narrator find one thing that they can do next."
SEED = {
    "post": "I failed my driving test for the third time and told nobody.",
    "aim": AIM,
    "principles": "1. Begin with the silence, not with the test.\n2. Suggest one person to tell.",
}
POST = "My sister has stopped answering since I sold Dad's piano.\n\nI only wanted the room back."
WRITTEN = {
    "principles": "1. Name the silence as hurt.\n2. Offer one first message.",
    "improved_principles": "1. Name the silence as hurt, on both sides.\n2. Offer the words of a first message.",
    "response": "Her silence may be grief for the piano. You could write her one line about it.",
    "improved_response": "Her silence may be grief, as yours is. One line would do: I miss him too.",
    "feedback": "It sees the hurt. It does not say what to write.",
    "score": 3,
}


class Listener:
    """A recording that answers every stage with WRITTEN, in its style, and keeps each stage's first prompt."""

    def __init__(self, stages, style_name):
        self.stages, self.style, self.prompts = stages, style(style_name), {}

    def answer(self, request):
        stage = CALL.get().stage
        system = (
            request.system if isinstance(request.system, str) else "".join(p.text for p in request.system)
        )
        messages = [("system", system), *((m.role, m.text) for m in request.messages)]
        self.prompts.setdefault(stage, "".join(f"======== {role}\n{text}\n" for role, text in messages))
        signature = getattr(self.stages, stage)
        outputs = {name: WRITTEN[name] for name in signature.output_fields}
        return self.style.format_assistant_message_content(signature, outputs)


def prompts(style_name, *, published):
    """The prompts of one run that refines both candidates, by stage."""
    task = replace(spri.load_task("reappraisal"), seeds=(SEED,))
    program = spri.SPRI.paper(task, max_critiques=2) if published else spri.SPRI(task, max_critiques=2)
    stages = task.stages.as_published() if published else task.stages
    listener = Listener(stages, style_name)
    lm = replay_lm(listener)
    lm.prompt_style = style_name
    program.set_lms(base=lm)(post=POST, aim=AIM)
    return listener.prompts


def rendered(style_name):
    """File name -> prompt, for one style."""
    ours, published = (prompts(style_name, published=p) for p in (False, True))
    files = {f"{stage}.{style_name}.txt": prompt for stage, prompt in ours.items()}
    for stage, prompt in published.items():
        if prompt != ours[stage]:
            files[f"{stage}.{style_name}.published.txt"] = prompt
    return files


@pytest.mark.parametrize("style_name", list(STYLES))
def test_prompts_are_as_their_files_say(style_name):
    for name, prompt in rendered(style_name).items():
        path = GOLDEN / name
        if os.environ.get("SPRI_UPDATE_GOLDEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(prompt, "utf-8")
        kept = path.read_text("utf-8") if path.exists() else ""
        change = "\n".join(
            difflib.unified_diff(kept.splitlines(), prompt.splitlines(), "kept", "now", lineterm="")
        )
        assert kept == prompt, (
            f"the prompt {path} has changed; SPRI_UPDATE_GOLDEN=1 keeps the new one\n{change}"
        )


@pytest.mark.parametrize("style_name", list(STYLES))
def test_only_refinements_differ_as_published(style_name):
    published = {name.split(".")[0] for name in rendered(style_name) if ".published." in name}
    assert published == {"refine_principles", "refine_response"}


def test_every_kept_prompt_is_one_that_is_sent():
    sent = {name for style_name in STYLES for name in rendered(style_name)}
    assert {path.name for path in GOLDEN.iterdir()} == sent
    assert len(sent) == len(STYLES) * (len(BASE) + 2)


@pytest.mark.parametrize("style_name", list(STYLES))
def test_nothing_is_left_out_of_a_prompt(style_name):
    asked = prompts(style_name, published=False)
    seed = [SEED["post"], *SEED["principles"].splitlines()]
    assert all(line in asked["generate_principles"] for line in seed)
    assert all(POST in prompt and AIM in prompt for prompt in asked.values())
    assert WRITTEN["principles"] in asked["critique_principles"]
    assert WRITTEN["improved_principles"] in asked["generate_response"]
    for stage in ("refine_principles", "refine_response"):
        assert WRITTEN["feedback"] in asked[stage]
    assert not any("None" in prompt or "Not supplied" in prompt for prompt in asked.values())
