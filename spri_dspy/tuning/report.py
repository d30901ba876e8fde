"""What a tuning run did, and what it came to, as one value that goes to JSON.

It knows the shapes of its parts; `experiment` fills it in, and optimizers add to its trials and rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from spri_dspy.bulk import plain
from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate
from spri_dspy.tuning.decision import Decision
from spri_dspy.tuning.seeds import Seed


@dataclass
class TuningReport:
    """What a tuning run did, and what it came to.

    Attributes:
        metric, optimizer: their names.
        splits: examples, clusters and groups of train, search, holdout and test.
        decision: whether the tuned program replaces the start, and why: both on the holdout.
        unscorable: ids of examples that were left out because nothing could score them, and why.
        trials: every program that was scored, with its metric on the search split. The best of many is lucky: see
            `decision`. `program` is a hash of it.
        winner: the hash of the program that came to the decision; None if none did.
        rounds: what happened in each round of the search.
        pool: every seed of a seed search; its trials name them by their number here.
        changes: what the returned program has in place of the start's, by stage; see `changes_of`.
        test: the start ("before") and the returned program ("after") on the test split, and their `difference`; without
            an improvement there is only "before". Empty if there is no test split, or no budget was left.
        costs: calls, tokens and dollars of all finished calls; see `Evaluator.costs`.
        stopped: why the search or the report ended early, None if it did not.
        run_dir: where everything is.
    """

    metric: str
    optimizer: str
    splits: dict[str, Any]
    decision: Decision
    unscorable: dict[str, str] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    winner: str | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    pool: tuple[Seed, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Estimate | Comparison] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    stopped: str | None = None
    run_dir: str = ""

    @property
    def improved(self) -> bool:
        """True if the tuned program replaced the start."""
        return self.decision.improved

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types, without the place on disk."""
        parts = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "run_dir"}
        return parts | {
            "decision": self.decision.to_json(),
            "test": {name: part.to_json() for name, part in self.test.items()},
            "pool": [seed.to_json() for seed in self.pool],
        }


def changes_of(start: Any, tuned: Any) -> dict[str, Any]:
    """The stages in which two programs differ: instructions and demos of each, before and after."""
    before = dict(start.named_predictors())
    found: dict[str, Any] = {}
    for name, predictor in tuned.named_predictors():
        pair = {"before": _shown(before[name]), "after": _shown(predictor)}
        if pair["before"] != pair["after"]:
            found[name] = pair
    return found


def _shown(predictor: Any) -> Mapping[str, Any]:
    return {
        "instructions": predictor.signature.instructions,
        "demos": [plain(dict(demo)) for demo in predictor.demos],
    }
