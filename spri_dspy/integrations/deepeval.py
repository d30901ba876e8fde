"""A deepeval metric from rubrics.

    from spri_dspy.integrations.deepeval import RubricMetric

    metric = RubricMetric("rubrics.jsonl", judge="openai/gpt-4o-mini", threshold=0.75)
    evaluate([LLMTestCase(input="Name a quiet bird.", actual_output="The bittern.")], [metric])

deepeval wants an older rich and click than spri-dspy's newest extras: `pip install spri-dspy "deepeval>=4.3.1"` in an
environment of its own (`make test-integrations` makes one). Its telemetry is off with DEEPEVAL_TELEMETRY_OPT_OUT=1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spri_dspy.errors import CallError, PrerequisiteError, UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.integrations.rubric_scoring import RubricScorer

# The checking environment lacks deepeval.
# pyright: reportMissingImports=false
try:
    from deepeval.metrics import BaseMetric
    from deepeval.test_case import LLMTestCase
except ImportError as error:
    raise PrerequisiteError(
        'deepeval is not installed: pip install spri-dspy "deepeval>=4.3.1", in an environment of its own'
    ) from error


class RubricMetric(BaseMetric):
    """Scores a test case's output by the rubric of its input: 0.0 for the scale's lowest score, 1.0 for its highest.

    A test case without a score (a failed call, no readable score, no rubric, an empty output) raises CallError;
    deepeval takes that as the metric's error, with `ErrorConfig(ignore_errors=True)` for this test case alone, and
    makes no 0 of it.

    Args:
        rubrics: as `RubricScorer` takes them: a file of `spri export RUN --format rubrics`, one rubric, or None.
        judge: LM string or dspy.LM; has to be named unless a scorer is given.
        threshold: on the metric's scale, 0 to 1.
        reference: show the judge the test case's expected output.
        scorer: one that is ready, instead of all the rest but threshold and reference.
        **settings: of `RubricScorer`.

    Raises:
        UsageError, PrerequisiteError: one of them is wrong or missing.
    """

    def __init__(
        self,
        rubrics: str | Path | Mapping[str, str] | None = None,
        *,
        judge: Any = None,
        threshold: float = 0.75,
        reference: bool = False,
        scorer: RubricScorer | None = None,
        **settings: Any,
    ) -> None:
        if judge is None and scorer is None:
            raise UsageError("RubricMetric needs a judge: judge=PROVIDER/MODEL")
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is on deepeval's scale, 0 to 1, not {threshold!r}")
        self.threshold, self.reference = threshold, reference
        # deepeval copies a metric from the attributes that are named as parameters: copies share the scorer.
        self.scorer = scorer or RubricScorer(rubrics, judge=judge, **settings)

    @property
    def __name__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - deepeval's own spelling
        return "SPRI Rubric"

    def measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        """Score a test case.

        Raises:
            CallError: it has no score.
        """
        return run_to_end(self.a_measure(test_case))

    async def a_measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        """The same without blocking."""
        self.score = self.success = self.reason = self.error = None
        reference = test_case.expected_output if self.reference else None
        found = await self.scorer.ascore(str(test_case.input), str(test_case.actual_output or ""), reference)
        if found.share is None:
            raise CallError(f"no score: {found.explanation}")
        self.score, self.reason = found.share, f"{found.value:g} of 5: {found.explanation}"
        self.is_successful()
        return found.share
