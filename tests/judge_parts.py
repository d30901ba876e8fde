"""What the tests of judges share: an LM that answers by stage and sample and keeps its prompts, and judged texts."""

import math
import re

from dspy.lm15 import Message, Response, TextPart, TokenLogprob, TopLogprob, Usage

from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.replay import replay_lm
from spri_dspy.lms.spec import CALL
from spri_dspy.records import Record
from spri_dspy.runs import RunDir
from tests.factories import chat

POST = {
    "post": "I sold Dad's piano and my sister has stopped answering.",
    "standards": "- Names one next step.",
}
REAPPRAISAL = {**POST, "response": "Her silence may be grief. You could write her one line."}
ANSWER = {"instruction": "Name the capital of Peru.", "answer": "Lima."}
RUBRIC = "Is the city right?\nScore 1: another city\nScore 3: a city nearby\nScore 5: Lima"
FENCE = re.compile(r"^<<< ([0-9a-f]{12})\n(.*?)\n\1 >>>$", re.DOTALL | re.MULTILINE)


def make_run(*records, path="r", **manifest):
    """A run directory with these records."""
    asked = {"task": "reappraisal", "system": "spri", "lms": {"base": "offline"}, "seed": 0, **manifest}
    with RunDir.create(path, asked) as run:
        for record in records:
            run.append(record)
    return run.path


def reappraised(name="a", group="g1", **labels):
    return Record(
        name,
        {"post": POST["post"], "aim": "Find a next step."},
        {"principles": "- Name one step.", "response": f"Write her one line, {name}."},
        group=group,
        labels={"standards": "- Names one step.", **labels},
    )


def answer_record(name="a", human_score=None, **labels):
    """A record of the rubrics task: an answer of the data's, judged by the run."""
    given = {} if human_score is None else {"human_score": human_score}
    return Record(
        name,
        {"instruction": "Name the capital of Peru.", "answer": f"Lima, {name}."},
        {"principles": rubric("the run's"), "response": {"feedback": "right", "score": 4}},
        group="grounding",
        cluster="peru",
        labels={"rubric": rubric("the data's"), "reference_answer": "It is Lima.", **given, **labels},
    )


def rubric(whose):
    return {"criteria": f"Is {whose} city right?"} | {
        f"score{n}_description": f"level {n}" for n in range(1, 6)
    }


class Answers:
    """A recording: stage -> the answers to its samples, in order; the last one goes on."""

    def __init__(self, **stages):
        self.stages, self.prompts, self.rollouts = stages, {}, {}

    def answer(self, request):
        call = CALL.get()
        system = (
            request.system if isinstance(request.system, str) else "".join(p.text for p in request.system)
        )
        self.prompts.setdefault(call.stage, []).append((system, request.messages[-1].text))
        self.rollouts.setdefault(call.stage, []).append(call.rollout)
        said = self.stages[call.stage]
        said = said if isinstance(said, list | tuple) else [said]
        return said[min(len(self.prompts[call.stage]), len(said)) - 1]


def answered(judge, style=None, **stages):
    """Give a judge an LM that answers by stage; returns the recording."""
    recording = Answers(**stages)
    lm = replay_lm(recording)
    lm.prompt_style = style
    judge.set_lms(judge=lm)
    return recording


def rated(score, text="because", *, name="feedback"):
    return chat(**{name: text, "score": score})


class LogprobEngine:
    """Answers every request with the same tokens, each a text or (text, {alternative: probability})."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, tokens, content=None, sampled=0.5):
        self.tokens = [token if isinstance(token, tuple) else (token, {}) for token in tokens]
        self.content, self.sampled, self.asked = content, sampled, []

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        self.asked.append(request.config.logprobs)
        text = self.content or "".join(token for token, _ in self.tokens)
        logprobs = tuple(
            TokenLogprob(
                token,
                math.log(top.get(token, self.sampled)),
                top=tuple(TopLogprob(t, math.log(p)) for t, p in top.items()),
            )
            for token, top in self.tokens
        )
        return Response(
            id="x",
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
            logprobs=logprobs if request.config.logprobs else None,
        )


def logprob_lm(tokens, style=None, **settings):
    engine = LogprobEngine(tokens, **settings)
    lm = ScopedLM("local/logprobs", engine=engine, cache=False, num_retries=0, temperature=0.0, max_tokens=99)
    lm.prompt_style = style
    return lm, engine
