"""spri-dspy: situated principles for every input, as a DSPy program whose seeds can be tuned.

    import spri_dspy as spri

    program = spri.SPRI(spri.load_task("reappraisal"))
    program.set_lms(base="openai/gpt-4o-mini", critic="hosted_vllm/prometheus-8x7b-v2?api_base=http://gpu:8000/v1")
    prediction = program(post="...", aim="...")

Public names are loaded when they are first used, so that importing this package costs next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# DSPy and LiteLLM otherwise fetch a price list over the network at first use; both read this when imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

if TYPE_CHECKING:
    from spri_dspy.bulk import arun_bulk, run_bulk
    from spri_dspy.commands.agree import agree
    from spri_dspy.commands.ratings import AgreeColumns
    from spri_dspy.critique_refine import CritiqueRefine
    from spri_dspy.errors import (
        CallError,
        DataError,
        LeakError,
        PrerequisiteError,
        ReplayMiss,
        RunMismatchError,
        SpriError,
        UnknownNameError,
        UnreadableAnswer,
        UsageError,
    )
    from spri_dspy.judges import Criterion, Judge, load_judge
    from spri_dspy.lms.budget import Budget
    from spri_dspy.lms.spec import load_lm
    from spri_dspy.metrics import Metric, load_metric
    from spri_dspy.metrics.agreement import Agreement
    from spri_dspy.metrics.rated import AgreeSettings
    from spri_dspy.parsing import read_score
    from spri_dspy.predict import RolePredict
    from spri_dspy.program import SPRI, load_program
    from spri_dspy.records import Estimate, Record, Round, Score, Usage, Verdict
    from spri_dspy.report.html import write_report
    from spri_dspy.runs import RunDir
    from spri_dspy.systems import load_system
    from spri_dspy.tasks import Example, Task, load_task
    from spri_dspy.tuning import tune

_HOME = {
    "AgreeColumns": "commands.ratings",
    "AgreeSettings": "metrics.rated",
    "Agreement": "metrics.agreement",
    "Budget": "lms.budget",
    "CallError": "errors",
    "Criterion": "judges",
    "CritiqueRefine": "critique_refine",
    "DataError": "errors",
    "Estimate": "records",
    "Example": "tasks",
    "Judge": "judges",
    "LeakError": "errors",
    "Metric": "metrics",
    "PrerequisiteError": "errors",
    "Record": "records",
    "ReplayMiss": "errors",
    "RolePredict": "predict",
    "Round": "records",
    "RunDir": "runs",
    "RunMismatchError": "errors",
    "SPRI": "program",
    "Score": "records",
    "SpriError": "errors",
    "Task": "tasks",
    "UnknownNameError": "errors",
    "UnreadableAnswer": "errors",
    "Usage": "records",
    "UsageError": "errors",
    "Verdict": "records",
    "agree": "commands.agree",
    "arun_bulk": "bulk",
    "load_judge": "judges",
    "load_lm": "lms.spec",
    "load_metric": "metrics",
    "load_program": "program",
    "load_system": "systems",
    "load_task": "tasks",
    "read_score": "parsing",
    "run_bulk": "bulk",
    "tune": "tuning",
    "write_report": "report.html",
}

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022 - sorted as a menu, case-sensitively
    "AgreeColumns",
    "AgreeSettings",
    "Agreement",
    "Budget",
    "CallError",
    "Criterion",
    "CritiqueRefine",
    "DataError",
    "Estimate",
    "Example",
    "Judge",
    "LeakError",
    "Metric",
    "PrerequisiteError",
    "Record",
    "ReplayMiss",
    "RolePredict",
    "Round",
    "RunDir",
    "RunMismatchError",
    "SPRI",
    "Score",
    "SpriError",
    "Task",
    "UnknownNameError",
    "UnreadableAnswer",
    "Usage",
    "UsageError",
    "Verdict",
    "agree",
    "arun_bulk",
    "load_judge",
    "load_lm",
    "load_metric",
    "load_program",
    "load_system",
    "load_task",
    "read_score",
    "run_bulk",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spri_dspy' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"spri_dspy.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
