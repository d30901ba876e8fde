"""Programs as things to be told apart, copied and sampled anew; LMs are shared by all copies.

It knows DSPy modules. What they are run on is in `evaluation`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy

from spri_dspy.predict import demos_of_group
from spri_dspy.program import CritiqueRefine
from spri_dspy.runs import fingerprint

_LOOP = ("accept_at", "max_critiques", "keep", "on_unscored")
_CONNECTION = ("timeout", "api_base", "key_env", "route")
_WARM = 0.7  # a second sample of an LM that is otherwise greedy, as in predict


def identity(module: Any, group: str | None = None) -> str:
    """A hash of what decides a module's answers: prompts, demos, loop settings, models. LM addresses play no part.

    Args:
        module: a DSPy module.
        group: count only the demos that an example of this group is shown; None counts all.
    """
    state = {name: predictor.dump_state() | {"lm": None} for name, predictor in module.named_predictors()}
    for saved in state.values():
        saved["demos"] = demos_of_group(saved["demos"], group)
    loops = dict(module.named_sub_modules(CritiqueRefine))
    settings = {name: [getattr(loop, setting) for setting in _LOOP] for name, loop in loops.items()}
    return fingerprint(
        [type(module).__name__, state, settings, getattr(module, "settings", None), models_of(module)]
    )


def models_of(module: Any) -> dict[str, str]:
    """The LM of each role, without how it is reached."""
    found: dict[str, str] = {}
    for _, predictor in module.named_predictors():
        lm, role = lm_of(predictor), getattr(predictor, "role", "base")
        spec = getattr(lm, "spec", None)
        if lm is None or role in found:
            continue
        options = {k: v for k, v in sorted(spec.options.items()) if k not in _CONNECTION} if spec else {}
        found[role] = str(replace(spec, options=options)) if spec else str(lm.model)
    return found


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
