"""What a seed search did, and what it came to, as one value that goes to JSON.

It knows the shapes of its parts; whoever fills it in is in `seed_search`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate
from spri_dspy.tuning.decision import Decision
from spri_dspy.tuning.evaluation import Spent
from spri_dspy.tuning.samplers import Candidate
from spri_dspy.tuning.seeds import Seed


@dataclass
class SearchReport:
    """What a seed search did, and what it came to.

    Attributes:
        decision: whether the tuned program replaces the start, and why: both on rows that the search never saw.
        metric: its name.
        splits: examples, clusters and groups by split.
        pool: every seed; trials name them by their number here.
        trials: every candidate with its metric on the search rows. The best of many is lucky: see `decision`.
        seeds: the seeds of the returned program, by number.
        rounds: what happened in each race.
        start, winner: both on the search rows; None if the search did not get there.
        test: the returned program ("after") and the start ("before") on the test split, and their `difference`;
            without an improvement there is only "before". Empty if there is no test split, or no budget was left.
        spend: what all finished calls took.
        stopped: why the search or the report ended early, None if it did not.
        run_dir: where everything is.
    """

    decision: Decision
    metric: str
    splits: dict[str, Any]
    pool: tuple[Seed, ...] = ()
    trials: list[dict[str, Any]] = field(default_factory=list)
    seeds: Candidate | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    start: Estimate | None = None
    winner: Estimate | None = None
    test: dict[str, Estimate | Comparison] = field(default_factory=dict)
    spend: Spent = field(default_factory=Spent)
    stopped: str | None = None
    run_dir: str = ""

    @property
    def improved(self) -> bool:
        """True if the tuned program replaced the start."""
        return self.decision.improved

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types, without the place on disk."""
        return {
            "metric": self.metric,
            "decision": self.decision.to_json(),
            "test": {name: part.to_json() for name, part in self.test.items()},
            "start": self.start.to_json() if self.start else None,
            "winner": self.winner.to_json() if self.winner else None,
            "seeds": list(self.seeds) if self.seeds is not None else None,
            "splits": self.splits,
            "spend": self.spend.to_json(),
            "stopped": self.stopped,
            "trials": self.trials,
            "rounds": self.rounds,
            "pool": [seed.to_json() for seed in self.pool],
        }
