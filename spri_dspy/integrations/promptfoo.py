"""SPRI in promptfoo: a provider and an assertion, in two small Python files that promptfoo is pointed to.

    # provider.py
    from spri_dspy.integrations.promptfoo import spri_provider
    call_api = spri_provider("sft", base="openai/gpt-4o-mini")

    # assertion.py
    from spri_dspy.integrations.promptfoo import rubric_assertion
    get_assert = rubric_assertion("rubrics.jsonl", judge="openai/gpt-4o-mini", threshold=4)

    # promptfooconfig.yaml
    prompts: ["{{instruction}}"]
    providers: [file://provider.py]
    tests:
      - vars: {instruction: Name a quiet bird.}
        assert: [{type: python, value: file://assertion.py}]

promptfoo keeps the provider's process, so rubrics and connections last; an assertion may be given a new one each time,
so name exported rubrics there, or each answer writes its rubric anew. Python has to be the one with spri-dspy: set
PROMPTFOO_PYTHON. promptfoo has no missing score: an answer that cannot be judged fails with score 0 and the reason
"no score: ...", unless `on_missing="error"` makes it an error of that test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import dspy

from spri_dspy.bulk import plain
from spri_dspy.errors import CallError, UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.integrations.rubric_scoring import HIGHEST, LOWEST, RubricScorer
from spri_dspy.program import load_program
from spri_dspy.records import Usage
from spri_dspy.redaction import error_line
from spri_dspy.strict_json import to_text
from spri_dspy.systems import load_system
from spri_dspy.tasks import load_task


def spri_provider(
    task: str = "sft",
    system: str = "spri",
    *,
    base: str | None = None,
    critic: str | None = None,
    program: str | None = None,
    **settings: Any,
) -> Callable[[str, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]:
    """A `call_api` that answers prompts with SPRI, or with another system of this package.

    The prompt is the task's text input; its other inputs (`aim` of reappraisal) are read from the test's vars. The
    result has `output`, `tokenUsage`, and principles, scores and stop reasons under `metadata`; an LM call that
    fails is the result's `error`.

    Args:
        task: as `load_task` takes it.
        system: as `load_system` takes it.
        base: LM string; without one the offline stand-in answers.
        critic: LM string; the base by default.
        program: a saved or tuned program to use.
        **settings: of the system.

    Raises:
        UsageError, PrerequisiteError: one of them is wrong or missing.
    """
    made = load_task(task)
    answering = load_system(system, made, **settings)
    if program is not None:
        load_program(answering, program)
    answering.set_lms(base=base or "offline", critic=critic)

    def call_api(prompt: str, options: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
        given = context.get("vars") or {}
        named = {name: given[name] for name in made.inputs if name in given and name != made.text_input}
        try:
            example = made.example_of(**named, **{"id": "prompt", made.text_input: prompt})
            with dspy.context(disable_history=True, trace=None):
                found = run_to_end(answering.acall(group=example.group, **example.input_values))
        except (CallError, UsageError, dspy.LMError, TimeoutError) as error:
            return {"error": error_line(error)}
        response = plain(found.get("response", found.get("principles")))
        used = sum(found.get("usage", {}).values(), Usage())
        tokens = {"prompt": used.input_tokens, "completion": used.output_tokens}
        return {
            "output": response if isinstance(response, str) else to_text(response),
            "tokenUsage": {**tokens, "total": used.input_tokens + used.output_tokens},
            "metadata": {n: plain(found[n]) for n in ("principles", "scores", "stop_reasons") if n in found},
        }

    return call_api


def rubric_assertion(
    rubrics: str | Path | Mapping[str, str] | None = None,
    *,
    judge: Any,
    threshold: float = 4.0,
    instruction: str | None = None,
    on_missing: Literal["fail", "error"] = "fail",
    **settings: Any,
) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    """A `get_assert` that judges an output by the rubric of its instruction.

    The result's `score` is 0.0 for the lowest and 1.0 for the highest score of the scale, `pass` says whether the
    score reaches the threshold, `reason` is the judge's feedback.

    Args:
        rubrics: as `RubricScorer` takes them.
        judge: LM string or dspy.LM.
        threshold: on the rubric's scale, 1 to 5.
        instruction: the var that holds the instruction; None for the whole prompt.
        on_missing: what an output without a score is.
        **settings: of `RubricScorer`.

    Raises:
        UsageError, PrerequisiteError: one of them is wrong or missing.
    """
    if not LOWEST <= threshold <= HIGHEST:
        raise UsageError(f"threshold is on the rubric's scale, 1 to 5, not {threshold!r}")
    scorer = RubricScorer(rubrics, judge=judge, **settings)

    def get_assert(output: str, context: Mapping[str, Any]) -> dict[str, Any]:
        given = context.get("vars") or {}
        if instruction is not None and instruction not in given:
            raise UsageError(f"the test has no var {instruction!r}")
        asked = str(given[instruction] if instruction is not None else context.get("prompt") or "")
        [found] = scorer.score([(asked, str(output))])
        if found.value is None or found.share is None:
            if on_missing == "error":
                raise CallError(f"no score: {found.explanation}")
            return {"pass": False, "score": 0.0, "reason": f"no score: {found.explanation}"}
        return {
            "pass": found.value >= threshold,
            "score": found.share,
            "reason": f"{found.value:g} of 5: {found.explanation}",
            "namedScores": {"rubric": found.value},
        }

    return get_assert
