"""The two shapes that baselines share: one call, and a draft that is rewritten a fixed number of times.

They are programs like SPRI: a task's inputs in, `response` out, prompts and demos in RolePredicts of the role
"base". They know no task and no wording; a system's own file brings its signatures and its principles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

from spri_dspy.critique_refine import Plan, arguments
from spri_dspy.errors import UsageError
from spri_dspy.evidence import current
from spri_dspy.predict import RolePredict
from spri_dspy.program import Program, ProgramTask
from spri_dspy.records import Round
from spri_dspy.signatures import candidate_field

Given = Callable[[Mapping[str, Any], str | None], Any]
"""The principles of one input, told from the inputs (with the labels that are shown) and the group."""


class OneStep(Program):
    """One call that answers the inputs, by principles that are given or by none.

    Args:
        task: what the program is for.
        signature: the call, with an input `principles` if there are any.
        given: where the principles come from; None for a system without.
        label_inputs: labels that `given` reads; a system with any sees labels.

    1 LM call. The predictor is `generate`.
    """

    def __init__(
        self,
        task: ProgramTask,
        signature: type[dspy.Signature],
        *,
        given: Given | None = None,
        label_inputs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(task)
        self.generate = RolePredict(signature, stage="generate_response")
        self.given = given
        self.inputs = tuple(name for name in signature.input_fields if name != "principles")
        self.label_inputs = label_inputs
        self.sees = "labels" if label_inputs else "input"

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """The call."""
        shown = {"principles": self.given(inputs, group)} if self.given else {}
        answer = yield self.generate, arguments(self.generate, {**inputs, **shown}, group)
        return {**shown, "response": answer[candidate_field(self.generate.signature)]}


class Rewritten(Program):
    """A draft, rewritten once a step whatever it is like: nobody judges it.

    Args:
        task: what the program is for.
        generate: writes the draft, its one output.
        refine: takes the draft under the name of `generate`'s output and returns a better one.
        steps: what each rewriting is shown besides, such as {"principles": ...}; their number is the number
            of rewritings.

    1 + len(steps) LM calls. The predictors are `generate` and `refine`. The trace has every version, without a
    verdict.
    """

    sees = "input"

    def __init__(
        self,
        task: ProgramTask,
        generate: type[dspy.Signature],
        refine: type[dspy.Signature],
        steps: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__(task)
        self.generate = RolePredict(generate, stage="generate_response")
        self.refine = RolePredict(refine, stage="refine_response")
        self.steps = tuple(steps)
        n_calls = 1 + len(self.steps)
        self.calls = (n_calls, n_calls, n_calls)
        self.inputs = tuple(generate.input_fields)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its course beside its prompts."""
        return {"steps": [dict(step) for step in self.steps]}

    def plan(self, inputs: Mapping[str, Any], group: str | None = None) -> Plan:
        """The draft, then every step."""
        draft, improved = candidate_field(self.generate.signature), candidate_field(self.refine.signature)
        answer = yield self.generate, arguments(self.generate, inputs, group)
        version, trace = answer[draft], current().trace
        trace.append(Round("response", str(version), None))
        for step in self.steps:
            known = {**inputs, draft: version, **step}
            answer = yield self.refine, arguments(self.refine, known, group)
            version = answer[improved]
            trace.append(Round("response", str(version), None))
        principles = [step["principles"] for step in self.steps if "principles" in step]
        return {
            **({"principles": "\n\n".join(principles)} if principles else {}),
            "response": version,
        }


def described(signature: type[dspy.Signature], **descriptions: str) -> type[dspy.Signature]:
    """A signature with other descriptions for the fields it has; names of other fields are passed over."""
    for name, description in descriptions.items():
        if name in signature.fields:
            # DSPy's own hint for what a field takes is too narrow.
            settings: Any = {"desc": description}
            signature = signature.with_updated_fields(name, **settings)
    return signature


def only_for(task: ProgramTask, system: str, *names: str) -> None:
    """Refuse a task that a system has nothing for.

    Raises:
        UsageError: the task's name is none of `names`.
    """
    if task.name not in names:
        said = f"the task {names[0]}" if len(names) == 1 else f"the tasks {' and '.join(names)}"
        raise UsageError(f"the system {system} is for {said}, not for {task.name}")
