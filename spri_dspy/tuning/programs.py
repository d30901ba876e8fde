"""Programs as things to be told apart, copied and sampled anew; LMs are shared by all copies.

It knows DSPy modules. What they are run on is in `evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from spri_dspy import runs
from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.predict import RolePredict
from spri_dspy.program import fingerprint, models_of

_WARM = 0.7  # a second sample of an LM that is otherwise greedy, as in predict


def identity(module: Any, group: str | None = None) -> str:
    """A hash of what decides a module's answers: prompts, demos, settings, models. LM addresses play no part.

    Args:
        module: a DSPy module.
        group: count only the demos that an example of this group is shown; None counts all.
    """
    return runs.fingerprint([fingerprint(module, group), models_of(module)])


def stages_of(program: Any, names: Sequence[str]) -> dict[str, RolePredict]:
    """The predictors of these names, such as those that are tuned.

    Raises:
        UnknownNameError: the program has no such predictor.
        UsageError: none was named.
    """
    predictors = dict(program.named_predictors())
    for name in names:
        if name not in predictors:
            raise UnknownNameError("stage", name, predictors)
    if not names:
        raise UsageError(f"name at least one stage to tune: {', '.join(predictors)}")
    return {name: predictors[name] for name in names}


def lm_of(predictor: Any) -> Any:
    """The LM that a predictor would call: its own, else the one that DSPy is configured with; None for neither."""
    return predictor.lm or dspy.settings.lm


def copy_program(program: Any) -> Any:
    """A copy that shares the program's LMs, without what an earlier tuning left on it."""
    copied = program.deepcopy()
    for (_, ours), (_, theirs) in zip(copied.named_predictors(), program.named_predictors(), strict=True):
        ours.lm = theirs.lm
    for name in ("candidate_programs", "trial_logs", "report", "score"):
        copied.__dict__.pop(name, None)
    return copied


def resampled(module: Any, sample: int) -> Any:
    """The module for its n-th sample: itself for 0, else a copy whose LMs give new answers to the same prompts."""
    if not sample:
        return module
    copied, made = copy_program(module), dict[int, Any]()
    for _, predictor in copied.named_predictors():
        lm = predictor.lm
        if lm is not None:
            warm = lm.kwargs.get("temperature") or _WARM
            predictor.lm = made.setdefault(id(lm), lm.copy(rollout_id=sample, temperature=warm))
    return copied
