"""The made-up town (`world`), where instructions help as seeds do, and an LM that writes instructions.

Experts' principles name the landmarks that help. The writer knows nothing but what it reads: it repeats every landmark
of its prompt, so that an instruction is only as good as what an optimiser tells.
"""

import json
import re
import threading
from dataclasses import replace

from dspy.lm15 import Message, TextPart, response_to_events

from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.spec import CALL
from tests.factories import chat
from tests.tuning import world

LANDMARKS = [word for words in world.HELPFUL.values() for word in words]
_PARTS = re.compile(r"\[\[ ## (\w+) ## \]\]")


class Listening(world.Town):
    """A town whose judges take up what the instruction of their first stage says, as well as its seeds.

    Args:
        dumb: questions to which the second stage never gives a readable answer.
    """

    def __init__(self, *, dumb=(), **town):
        super().__init__(**town)
        self.dumb, self.roles, self._lock = set(dumb), [], threading.Lock()

    def said(self, request):
        call = CALL.get()
        with self._lock:
            self.roles.append((call.role, request.model))
            if call.stage == "generate_response" and any(
                name in request.messages[-1].text for name in self.dumb
            ):
                self.stages[call.stage] += 1
                return "?"
            told = " ".join(word for word in LANDMARKS if word in (request.system or ""))
            if told:
                heard = Message.assistant([TextPart(f"The instruction names {told}.")])
                request = replace(request, messages=(heard, *request.messages))
            return super().said(request)


class Writer:
    """An LM that writes what is asked for, with every landmark that its prompt names."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self):
        self.prompts = []

    def __deepcopy__(self, memo):
        return self

    def lm(self):
        return ScopedLM(
            "town/writer", engine=self, cache=False, num_retries=0, temperature=1.0, max_tokens=99
        )

    def complete(self, request):
        prompt = "\n".join([request.system or "", *(m.text for m in request.messages)])
        self.prompts.append(prompt)
        told = sorted({word for word in LANDMARKS if word in prompt})
        text = f"Version {len(self.prompts)}: think of the {' and the '.join(told) or 'weather'}."
        asked = request.system or prompt
        outputs = asked.partition("Your output fields are:")[2].partition("All interactions")[0]
        names = re.findall(r"\d+\. `(\w+)`", outputs)
        if "JSON object" in asked:
            return world._response(request, json.dumps(dict.fromkeys(names, text)))
        return world._response(request, chat(**dict.fromkeys(names, text)))

    def stream(self, request):
        yield from response_to_events(self.complete(request))


def make_examples(town, n, first=0):
    """Bridges with people's scores, and what experts wrote about them."""
    return [
        e.changed(
            labels={
                **e.label_values,
                "oracle_principles": f"Mind the {' and the '.join(world.HELPFUL[e.group])} before all else.",
            },
        )
        for e in world.make_examples(town, n, first)
    ]
