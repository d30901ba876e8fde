"""A world whose truth is known: judges of bridges that get better with the right seeds in their prompt.

An example asks how good a bridge is; people's score of it is the label. The engine below answers every stage of a SPRI
program as an LM would, from the prompt alone: it knows which seeds help (their principles name a landmark), counts
those it is shown, and the more there are, the closer its judgement is to people's. With `effect=0` seeds change what it
says, but not how good that is.

Run as a command it compiles once and prints the report; tests kill it.
"""

import asyncio
import json
import math
import os
import random
import re
import sys
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import dspy
from dspy.lm15 import Message, Response, TextPart, Usage, response_to_events

import spri_dspy as spri
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.spec import CALL
from spri_dspy.predict import RolePredict
from spri_dspy.program import Program
from spri_dspy.signatures import Stages
from spri_dspy.tasks import Task, make_example
from spri_dspy.tasks.rubrics import Judgement
from tests.factories import chat

GROUPS = ("north", "south")
HELPFUL = {"north": ("lantern", "harbour"), "south": ("orchard", "chapel")}
USELESS = ("tunnel", "quarry")


class Town:
    """People's scores, and an engine that judges like them as far as its seeds help.

    Args:
        effect: what each helpful seed adds to the correlation with people.
        base: the correlation without any.
        seed: of all noise.
        delay_seconds: of every call.
        log: a file that gets a line a call, before it is answered.
    """

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, *, effect=0.42, base=0.1, seed=0, delay_seconds=0.0, log=None):
        self.effect, self.base, self.seed = effect, base, seed
        self.delay_seconds, self.log = delay_seconds, log
        self.stages, self.in_flight, self.most_in_flight = Counter(), 0, 0

    def __deepcopy__(self, memo):
        return self

    def quality(self, question):
        """What a bridge is worth, about normal."""
        return self.noise("quality", question)

    def label(self, question):
        return five_points(self.quality(question))

    def noise(self, *key):
        digest = blake2b(repr((self.seed, *key)).encode(), digest_size=8).digest()
        return random.Random(int.from_bytes(digest)).gauss(0, 1)

    def lm(self, model="town/judge"):
        return ScopedLM(
            model,
            engine=self,
            async_engine=_Async(self),
            cache=False,
            num_retries=0,
            temperature=0.7,
            max_tokens=99,
        )

    def complete(self, request):
        return _response(request, self.said(request))

    def stream(self, request):
        yield from response_to_events(self.complete(request))

    def said(self, request):
        """The answer to one prompt; depends on the prompt alone."""
        stage = CALL.get().stage
        self.stages[stage] += 1
        turns = [(m.role, m.text) for m in request.messages]
        if self.log:
            line = f"{stage} {blake2b(repr(turns).encode(), digest_size=8).hexdigest()}\n"
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line.encode())
            os.close(descriptor)
        question = re.findall(r"bridge \d+ in the \w+", turns[-1][1])[-1]
        if stage.startswith("critique"):
            return chat(feedback="well done", score=5)
        if stage.startswith("propose"):
            return chat(principles="Look at the railings.")
        if stage == "generate_principles":
            shown = " ".join(text for role, text in turns if role == "assistant")
            group = question.rpartition(" ")[2]
            helpful = sum(word in shown for word in HELPFUL[group])
            flavour = blake2b(shown.encode(), digest_size=4).hexdigest()
            return chat(principles=f"Insight {helpful}, flavour {flavour}.")
        insight = int(re.findall(r"Insight (\d)", turns[-1][1])[-1])
        r = min(0.98, self.base + self.effect * insight)
        noise = self.noise("judgement", turns[-1][1])
        score = five_points(r * self.quality(question) + math.sqrt(1 - r * r) * noise)
        return chat(response=json.dumps({"feedback": "seen", "score": score}))


class _Async:
    """The same engine for asynchronous calls."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, town):
        self.town = town

    def __deepcopy__(self, memo):
        return self

    async def complete(self, request):
        town = self.town
        town.in_flight += 1
        town.most_in_flight = max(town.most_in_flight, town.in_flight)
        try:
            said = town.said(request)
            await asyncio.sleep(town.delay_seconds)
        finally:
            town.in_flight -= 1
        return _response(request, said)

    async def stream(self, request):
        for event in response_to_events(await self.complete(request)):
            yield event


def _response(request, text):
    return Response(
        id="town",
        model=request.model,
        message=Message.assistant([TextPart(text)]),
        finish_reason="stop",
        usage=Usage(input_tokens=100, output_tokens=10),
    )


def five_points(x):
    return int(min(5, max(1, round(1.2 * x + 3))))


def make_task():
    inputs = {"question": "which bridge is judged"}
    return Task(
        name="bridges",
        inputs=inputs,
        stages=Stages.build(inputs, types={"response": Judgement}),
        seeds=tuple(seed_rows(USELESS)),
        read_row=None,
        text_input="question",
        built_in=None,
    )


def seed_rows(words, first=9000):
    """A seed for every word: useless ones for both groups, helpful ones for their own."""
    rows = []
    for number, word in enumerate(words):
        groups = [g for g in GROUPS if word in HELPFUL[g]] or GROUPS
        for group in groups:
            question = f"How good is bridge {first + number} in the {group}?"
            rows.append({"question": question, "principles": f"Think of the {word}.", "group": group})
    return rows


def helpful_rows():
    return seed_rows([word for words in HELPFUL.values() for word in words], first=9500)


def make_examples(town, n, first=0):
    """Bridges of both groups in turn, with people's scores."""
    questions = [f"How good is bridge {first + i} in the {GROUPS[i % 2]}?" for i in range(n)]
    return [
        make_example(
            str(first + i), {"question": q}, GROUPS[i % 2], labels={"human_score": town.label(q[12:-1])}
        )
        for i, q in enumerate(questions)
    ]


def make_program(town):
    """The whole method, with two useless seeds in each group, and an LM for each role."""
    program = spri.SPRI(make_task(), max_critiques=1)
    return program.set_lms(base=town.lm("town/base"), critic=town.lm("town/critic"))


class _Draft(dspy.Module):
    def __init__(self, signature):
        super().__init__()
        self.generate = RolePredict(signature, stage="generate_principles")


class Brief(Program):
    """The same without critiques: half the calls, for tests that need many."""

    def __init__(self, task):
        super().__init__(task)
        self.principles = _Draft(task.stages.generate_principles)
        self.principles.generate.demos = [dspy.Example(seed) for seed in task.seeds]
        self.respond = RolePredict(task.stages.generate_response, stage="generate_response")
        self.inputs = tuple(task.inputs)

    def plan(self, inputs, group=None):
        drafted = yield self.principles.generate, {**inputs, "group": group}
        answer = yield self.respond, {**inputs, "principles": drafted.principles, "group": group}
        return {"principles": drafted.principles, "response": answer.response}


def make_brief(town):
    return Brief(make_task()).set_lms(base=town.lm("town/base"))


def main(folder, log):
    from spri_dspy.lms.budget import Budget
    from spri_dspy.tuning.experiment import Experiment
    from spri_dspy.tuning.racing.rounds import Racing
    from spri_dspy.tuning.seeds import Pool

    town = Town(delay_seconds=0.002, log=log)
    options = {
        "pool": Pool(written=helpful_rows(), bootstrapped=1, proposed=1, examples=3),
        "max_seeds": 2,
        "sampler": "mixed",
        "proposals": 4,
        "racing": Racing(batch=2),
    }
    search = Experiment(
        "pearson", options=options, run_dir=folder, concurrency=4, budget=Budget(max_calls=420)
    )
    tuned = search.compile(make_program(town), trainset=make_examples(town, 48))
    tuned.save(Path(folder) / "tuned.json")
    print(json.dumps(tuned.report.to_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
