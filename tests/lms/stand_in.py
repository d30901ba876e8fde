"""What the tests of the offline stand-in share: a post, the six stages, and one parsed answer."""

import re
from typing import Literal

import dspy
import pydantic
from dspy.lm15 import Config, Message, Request

from spri_dspy.adapters import STYLES as ADAPTERS
from spri_dspy.lms.offline import OfflineEngine
from spri_dspy.signatures import BASE

POST = """I failed my driving test for the third time today and I shouted at my father in the car. He only wanted
to help. My hands still shake when I think about the examiner, and I am ashamed of the shouting. My sister says I
should book the next lesson at once, but the money is gone and my boss gave me extra shifts until the holidays.
I do not know how to tell my father that I am sorry without starting the quarrel again."""

STYLES = ("chat", "json", "schema")


class Rubric(pydantic.BaseModel):
    criteria: str
    score1_description: str
    score2_description: str
    score3_description: str
    score4_description: str
    score5_description: str


class Judgement(pydantic.BaseModel):
    feedback: str
    score: Literal[1, 2, 3, 4, 5]


def ask(stage, style="chat", *, engine=None, demos=(), **inputs):
    """One answer to a stage or a signature, parsed by the style's own adapter; `schema` is JSON held to a schema."""
    signature = BASE[stage] if isinstance(stage, str) else stage
    engine = engine or OfflineEngine()
    if style == "schema":
        engine.supports_response_schema, engine.supported_params = True, ("response_format",)
    lm = dspy.LM("offline/rules", engine=engine, cache=False, num_retries=0, temperature=0.7, max_tokens=500)
    with dspy.context(lm=lm, adapter=ADAPTERS["json" if style == "schema" else style]):
        return dspy.Predict(signature)(**inputs, demos=list(demos))


def request(text, system=None, **config):
    return Request(
        model="offline/rules", messages=(Message.user(text),), system=system, config=Config(**config)
    )


def stage_request(stage, **inputs):
    system, user = ADAPTERS["chat"].format(BASE[stage], [], inputs)
    return request(user["content"], system["content"])


def reply(text, system=None, engine=None, **config):
    return (engine or OfflineEngine()).complete(request(text, system, **config)).message.text


def named(feedback):
    """The phrases that a feedback misses, without what stands before their last word."""
    missing = feedback.partition("does not mention")[2].partition(". ")[0]
    return [phrase.rpartition(" ")[2] for phrase in re.findall(r'"([^"]+)"', missing)]
