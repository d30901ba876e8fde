"""Small programs, tasks and LMs that tests are made of. All of them are real parts with scripted words."""

import spri_dspy as spri
from spri_dspy.lms.replay import Script, replay_lm
from spri_dspy.signatures import Stages
from spri_dspy.tasks import Task, make_example
from spri_dspy.tasks.fields import row_id, text

INPUTS = {"question": "what was asked"}


def make_task(seeds=()):
    """A task with one input and the base wording."""

    def read_row(row, number):
        return [make_example(row_id(row, number), {"question": text(row, "question")}, row.get("group"))]

    return Task(
        name="questions",
        inputs=INPUTS,
        stages=Stages.build(INPUTS),
        seeds=tuple(seeds),
        read_row=read_row,
        text_input="question",
        built_in=None,
    )


def chat(**fields):
    """An answer in chat style."""
    return "\n\n".join(f"[[ ## {k} ## ]]\n{v}" for k, v in fields.items()) + "\n\n[[ ## completed ## ]]"


def critique(score, feedback="say more about the dog"):
    return chat(feedback=feedback, score=score)


def scripted(program, *calls):
    """Give every role the same script of (stage, answer) pairs."""
    script = Script(calls)
    lm = replay_lm(script)
    program.set_lms(base=lm, critic=lm)
    return script


def make_spri(*calls, seeds=(), **loop):
    """A program and the script that answers it."""
    program = spri.SPRI(make_task(seeds), **loop)
    return program, scripted(program, *calls)


def post_server(url, model="openai/mock"):
    """The LM string of a mock server; `hosted_vllm` is carried natively."""
    return f"hosted_vllm/{model}?api_base={url}"
