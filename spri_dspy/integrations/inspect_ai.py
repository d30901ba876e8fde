"""SPRI in Inspect: a solver that answers samples, and a scorer that judges answers by a rubric for each instruction.

    from inspect_ai import Task, task
    from inspect_ai.dataset import json_dataset
    from spri_dspy.integrations.inspect_ai import spri_scorer, spri_solver

    @task
    def questions():
        return Task(dataset=json_dataset("questions.jsonl"), solver=spri_solver(), scorer=spri_scorer())

    inspect eval questions.py --model openai/gpt-4o-mini --model-role grader=anthropic/claude-sonnet-4-5

Inspect's own models do the work unless LM strings are named: the model that is evaluated is the base, the model role
`critic` criticises (default: the base), and the model role `grader`, which has to be given, judges. So Inspect counts
their tokens, limits their calls, caches and logs them. Inspect finds both by name too, without an import:

    inspect eval questions.py --solver spri_dspy/spri_solver -S task=sft
"""

from __future__ import annotations

# The checking environment lacks the extra [inspect].
# pyright: reportMissingImports=false
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import dspy

from spri_dspy.bulk import plain
from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.integrations.rubric_scoring import RubricScorer
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.spec import check_offline_roles, parse_lm
from spri_dspy.program import load_program
from spri_dspy.records import Usage as Used
from spri_dspy.strict_json import to_text
from spri_dspy.systems import load_system
from spri_dspy.tasks import load_task

try:
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        GenerateConfig,
        Model,
        ModelOutput,
        get_model,
        model_roles,
    )
    from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver
except ImportError as error:
    raise PrerequisiteError('Inspect is not installed: pip install "spri-dspy[inspect]"') from error

KEY = "spri"
"""Where a sample's metadata holds what SPRI did."""


@solver
def spri_solver(
    task: str = "sft",
    system: str = "spri",
    *,
    base: str | None = None,
    critic: str | None = None,
    program: str | None = None,
    **settings: Any,
) -> Solver:
    """Answer each sample with SPRI, or with another system of this package.

    The sample's input is the task's text input (an instruction, a post); the task's other inputs (`aim` of
    reappraisal) are read from the sample's metadata by name. The answer becomes the output, and principles, scores,
    stop reasons and every critique stand in `state.metadata["spri"]`. A sample whose LM calls fail is an error of
    that sample, as Inspect counts and limits them.

    Args:
        task: as `load_task` takes it.
        system: as `load_system` takes it.
        base: LM string; None for the model that Inspect evaluates.
        critic: LM string; None for Inspect's model role `critic`, else the base.
        program: a saved or tuned program to use.
        **settings: of the system, such as seeds="none".

    Raises:
        UsageError: one of them is wrong, a real base has an offline critic, or a sample lacks an input.
        PrerequisiteError: a key or an address is missing.
    """
    made = load_task(task)

    def prepared() -> Any:
        answering = load_system(system, made, **settings)
        if program is not None:
            load_program(answering, program)
        roles = {"base": base or inspect_lm(), "critic": critic}
        if critic is None and "critic" in model_roles():
            roles["critic"] = inspect_lm(role="critic")
        return answering.set_lms(**roles)

    load_system(system, made, **settings)  # so that a wrong name is refused where it was written

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        named = {name: state.metadata[name] for name in made.inputs if name in (state.metadata or {})}
        example = made.example_of(**named, **{"id": str(state.sample_id), made.text_input: state.input_text})
        with dspy.context(disable_history=True, trace=None):
            found = await prepared().acall(group=example.group, **example.input_values)
        response = plain(found.get("response", found.get("principles")))
        text = response if isinstance(response, str) else to_text(response)
        name = str(get_model()) if base is None else parse_lm(base).model
        state.messages.append(ChatMessageAssistant(content=text, source="generate", model=name))
        state.output = ModelOutput.from_content(model=name, content=text)
        state.metadata[KEY] = _shown(found)
        return state

    return solve


def _shown(found: dspy.Prediction) -> dict[str, Any]:
    """What is known of a prediction beside its response, in JSON types."""
    kept = {n: plain(v) for n, v in found.items() if n not in ("trace", "usage", "response")}
    usage = {role: asdict(used) for role, used in found.get("usage", {}).items() if isinstance(used, Used)}
    return {**kept, "trace": [asdict(each) for each in found.get("trace", ())], "usage": usage}


@scorer(metrics=[mean(), stderr()])
def spri_scorer(
    rubrics: str | Mapping[str, str] | None = None,
    *,
    judge: str | None = None,
    base: str | None = None,
    critic: str | None = None,
    reference: bool = False,
    samples: int = 1,
    logprobs: bool = False,
    swap: bool = False,
) -> Scorer:
    """Judge each answer by a rubric for its very input, 1 to 5.

    A score that cannot be had (an LM call failed, no readable score, no rubric, an empty answer) is
    `Score.unscored`: metrics leave it out, the sample keeps the reason.

    Args:
        rubrics: None lets SPRI write one for each input, once, without seeing answers; a file of
            `spri export RUN --format rubrics`; or one rubric for everything. See `RubricScorer`.
        judge: LM string; None for Inspect's model role `grader`, which then has to be given.
        base: LM string of who writes rubrics; None for the judge.
        critic: LM string of who criticises them; None for the base.
        reference: show the judge the sample's target as an answer that would get the top score.
        samples: judgements of each answer; the score is their mean.
        logprobs: take the expected score, where the judge's LM string names one that gives log-probabilities.
        swap: judge with the rubric's levels in the other order too.

    Raises:
        UsageError: one of them is wrong, or the offline LM would judge a real model.
        PrerequisiteError: no judge is given, or a key or an address is missing.
    """
    how: dict[str, Any] = {
        "samples": samples,
        "logprobs": logprobs,
        "swap": swap,
        "base": base,
        "critic": critic,
    }
    made: dict[Any, RubricScorer] = {}  # by the model that judges: a scorer may serve several evaluations

    async def score(state: TaskState, target: Target) -> Score:
        grader = judge or _grader()
        if judge is not None and not str(state.model).startswith("mockllm/"):
            check_offline_roles(
                {"base": parse_lm("inspect/model"), "judge": parse_lm(judge)}, "judge=PROVIDER/MODEL"
            )
        if grader not in made:
            lm = judge or inspect_lm(grader)
            made[grader] = RubricScorer(rubrics, judge=lm, **{n: v for n, v in how.items() if v is not None})
        answer = state.output.completion
        top = target.text if reference and target.text.strip() else None
        found = await made[grader].ascore(state.input_text, answer, top)
        about = {"answer": answer, "explanation": found.explanation, "metadata": {"rubric": found.rubric}}
        if found.value is None:
            reason = "grader_failed" if answer.strip() else "no_response"
            return Score.unscored(reason=reason, **about)
        return Score(value=found.value, **about)

    return score


def _grader() -> Model:
    """The model that Inspect was told to judge with."""
    if "grader" not in model_roles():
        raise PrerequisiteError(
            "spri_scorer has no judge: pass --model-role grader=PROVIDER/MODEL, or spri_scorer(judge=...)"
        )
    return get_model(role="grader")


def inspect_lm(model: Model | None = None, *, role: str | None = None) -> ScopedLM:
    """An LM that asks one of Inspect's models, so that Inspect counts, limits, caches and logs its calls.

    Temperature, max_tokens and all else are Inspect's own settings; only a call that is repeated because its answer
    was of no use, or that takes one more sample, states its temperature.

    Args:
        model: the model; None for that of a role, or the one that is evaluated.
        role: Inspect's model role.
    """
    asked = model or (get_model(role=role) if role else get_model())
    engine = InspectEngine(asked)
    return ScopedLM(
        f"inspect/{asked}", engine=engine, async_engine=engine.asynchronous, cache=False, num_retries=0
    )


class InspectEngine:
    """A DSPy engine over a model of Inspect, which can be asked asynchronously only."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, model: Model) -> None:
        self.model = model
        self.asynchronous = AsyncInspectEngine(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> InspectEngine:
        return self

    def complete(self, request: Any) -> NoReturn:
        """Refuse: inside an evaluation nothing may block.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"Inspect's model {self.model} is asked with acall, not with a call")


class AsyncInspectEngine:
    """The same for asynchronous calls."""

    supports_response_schema = supports_function_calling = supports_reasoning = False
    supported_params = ()

    def __init__(self, model: Model) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncInspectEngine:
        return self

    async def complete(self, request: Any) -> Any:
        """Ask the model once; retries are Inspect's.

        Raises:
            CallError: the model refused to answer, with its words.
        """
        from dspy.lm15 import Message, Response, TextPart, Usage

        system = request.system or ""
        if not isinstance(system, str):
            system = "".join(getattr(part, "text", "") for part in system)
        said = {"user": ChatMessageUser, "assistant": ChatMessageAssistant}
        messages: list[Any] = [ChatMessageSystem(content=system)] if system else []
        messages += [said[m.role](content=m.text or "") for m in request.messages]
        stated = {
            n: v for n in ("temperature", "max_tokens") if (v := getattr(request.config, n)) is not None
        }
        output = await self.model.generate(messages, config=GenerateConfig(**stated))
        if output.error:
            raise CallError(f"{self.model}: {output.error}")
        used = output.usage
        return Response(
            id=output.response_id or "inspect",
            model=request.model,
            message=Message.assistant([TextPart(output.completion)]),
            finish_reason=_FINISHED.get(output.stop_reason, "stop"),
            usage=Usage(
                input_tokens=used.input_tokens if used else 0, output_tokens=used.output_tokens if used else 0
            ),
        )


_FINISHED: dict[str, Any] = {
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
}
