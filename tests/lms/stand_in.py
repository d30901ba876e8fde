"""What the tests of the offline stand-in share: a post, the six stages, and one parsed answer."""

import enum
import os
import re
from typing import Literal

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import pydantic
from dspy.lm15 import Config, Message, Request

from spri_dspy.lms.offline import OfflineEngine

POST = """I failed my driving test for the third time today and I shouted at my father in the car. He only wanted
to help. My hands still shake when I think about the examiner, and I am ashamed of the shouting. My sister says I
should book the next lesson at once, but the money is gone and my boss gave me extra shifts until the holidays.
I do not know how to tell my father that I am sorry without starting the quarrel again."""

STYLES = {
    "chat": lambda: dspy.ChatAdapter(use_json_adapter_fallback=False),
    "json": dspy.JSONAdapter,
    "schema": dspy.JSONAdapter,
}


class Draft(dspy.Signature):
    """Write principles. Use at most 128 words."""

    post: str = dspy.InputField()
    aim: str = dspy.InputField()
    principles: str = dspy.OutputField(desc="one a line")


class Critique(dspy.Signature):
    """Judge the principles."""

    post: str = dspy.InputField()
    aim: str = dspy.InputField()
    principles: str = dspy.InputField()
    feedback: str = dspy.OutputField()
    score: Literal[1, 2, 3, 4, 5] = dspy.OutputField()


class Refine(dspy.Signature):
    """Improve the principles."""

    post: str = dspy.InputField()
    aim: str = dspy.InputField()
    principles: str = dspy.InputField()
    feedback: str = dspy.InputField()
    improved_principles: str = dspy.OutputField()


class Respond(dspy.Signature):
    """Answer the post."""

    post: str = dspy.InputField()
    principles: str = dspy.InputField()
    response: str = dspy.OutputField()


class CritiqueResponse(dspy.Signature):
    """Judge the response by the principles."""

    post: str = dspy.InputField()
    principles: str = dspy.InputField()
    response: str = dspy.InputField()
    feedback: str = dspy.OutputField()
    score: Literal[1, 2, 3, 4, 5] = dspy.OutputField()


class RefineResponse(dspy.Signature):
    """Improve the response."""

    post: str = dspy.InputField()
    principles: str = dspy.InputField()
    response: str = dspy.InputField()
    feedback: str = dspy.InputField()
    improved_response: str = dspy.OutputField()


class Rubric(pydantic.BaseModel):
    criteria: str
    score1_description: str
    score2_description: str
    score3_description: str
    score4_description: str
    score5_description: str


class Mood(enum.Enum):
    CALM = "calm"
    ASHAMED = "ashamed"


class Tree(pydantic.BaseModel):
    label: str = pydantic.Field(min_length=3, max_length=9)
    size: int = pydantic.Field(gt=2, le=4)
    children: "list[Tree]"


class Everything(dspy.Signature):
    """Every type that a field may have."""

    post: str = dspy.InputField()
    note: str = dspy.OutputField()
    ten: int = dspy.OutputField(desc="how strong, 1 to 10")
    bounded: int = dspy.OutputField(ge=7, le=9)
    share: float = dspy.OutputField()
    agree: bool = dspy.OutputField()
    mood: Mood = dspy.OutputField()
    topic: Literal["weather", "father's car", 'a "quote"'] = dspy.OutputField()
    level: Literal[2, 4] | None = dspy.OutputField()
    names: list[str] = dspy.OutputField()
    pairs: list[tuple[int, bool]] = dspy.OutputField()
    table: dict[str, int] = dspy.OutputField()
    tree: Tree = dspy.OutputField()


def ask(signature, style="chat", *, engine=None, demos=(), **inputs):
    """One answer, parsed by DSPy's own adapter."""
    engine = engine or OfflineEngine(response_schema=style == "schema")
    lm = dspy.LM("offline/rules", engine=engine, cache=False, num_retries=0, temperature=0.7, max_tokens=500)
    with dspy.context(lm=lm, adapter=STYLES[style]()):
        return dspy.Predict(signature)(**inputs, demos=list(demos))


def request(text, system=None, **config):
    return Request(
        model="offline/rules", messages=(Message.user(text),), system=system, config=Config(**config)
    )


def chat_request(signature=Critique, **inputs):
    system, user = dspy.ChatAdapter().format(signature, [], inputs)
    return request(user["content"], system["content"])


def reply(text, system=None, engine=None, **config):
    return (engine or OfflineEngine()).complete(request(text, system, **config)).message.text


def named(feedback):
    return re.search(r"does not mention: ([^.]*)", feedback).group(1).split(", ")
