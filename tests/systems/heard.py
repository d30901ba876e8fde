"""Programs with scripted LMs that remember the prompts they were asked."""

import spri_dspy as spri
from spri_dspy.lms.replay import Script, replay_lm
from spri_dspy.systems import load_system
from tests.factories import chat

POST = {"post": "My sister sold the boat without asking me.", "aim": "Help the narrator see both sides."}
ASKED = {"instruction": "Why is the sky blue?"}
ANSWERED = {**ASKED, "answer": "Because of the sea."}


class Heard(Script):
    """A script that keeps every prompt, as one text a call: the system message and all turns."""

    def __init__(self, calls):
        super().__init__(calls)
        self.prompts = []

    def answer(self, request):
        self.prompts.append("\n\n".join([str(request.system), *(m.text for m in request.messages)]))
        return super().answer(request)


def make(task, system, *calls, **settings):
    """A system, and the script that answers it."""
    options = {"with_reference": True} if settings.pop("with_reference", False) else {}
    program = load_system(system, spri.load_task(task, **options), **settings)
    script = Heard(calls)
    program.set_lms(base=replay_lm(script))
    return program, script


def drafted(text="first"):
    return ("generate_response", chat(response=text))


def rewritten(text):
    return ("refine_response", chat(improved_response=text))


def criticised(score, feedback="say more"):
    return ("critique_response", chat(feedback=feedback, score=score))


def judged(score=4, feedback="fine"):
    return ("generate_response", chat(response=f'{{"feedback": "{feedback}", "score": {score}}}'))


def rejudged(score, feedback):
    return ("refine_response", chat(improved_response=f'{{"feedback": "{feedback}", "score": {score}}}'))
