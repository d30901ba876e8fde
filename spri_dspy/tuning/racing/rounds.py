"""The search itself: rounds of races between candidates, each on a growing sample of the same rows.

1. Every round a sampler proposes a few candidates; they race against the start and the best so far. All rounds walk
   along one order of rows, so what a candidate was scored on stays comparable, and is paid for once.
2. The best of all rounds, the start and the best sets of each group put together race once more for what is left.
3. A metric that cannot be raced for chooses among these finalists by itself, on the same rows for all.

A race pays for a candidate only as long as it has a chance (`racing`). Candidates are numbers here and scores come from
a callable, so the same search runs on LMs and in simulations. Its winner is the luckiest of many: whether it is better
at all is decided on other rows (`decision`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from spri_dspy.errors import BudgetSpent, UsageError
from spri_dspy.metrics.columns import is_number
from spri_dspy.metrics.set_level import pearson
from spri_dspy.records import Estimate, Score
from spri_dspy.tuning.racing.race import MacroPearson, Objective, Race, RaceResult, Row
from spri_dspy.tuning.samplers import Candidate, Sampler, Space, Trial, propose_new, ranked, together

Answer = Callable[[Sequence[tuple[Candidate, Sequence[int]]]], list[list[float | None]]]
"""Scores candidates on rows: one list an ask, one number a row, in order; None where there is none."""

_ROUNDS_SHARE = 0.7  # of the scores that may be paid for; the finalists' race has the rest
_LEAST_ROWS = 6  # scores a candidate and round below which a round says nothing


@dataclass(frozen=True, kw_only=True)
class Racing:
    """Settings of the search.

    Attributes:
        batch: candidates proposed a round, at least 1.
        share: scores that may be paid for, as a share of scoring all candidates on all rows, in (0, 1].
        finalists: the best so many of all rounds race once more, beside the start.
    """

    batch: int = 4
    share: float = 0.6
    finalists: int = 3

    def __post_init__(self) -> None:
        if self.batch < 1 or self.finalists < 1:
            raise UsageError(f"batch and finalists must be at least 1, not {self.batch} and {self.finalists}")
        if not 0 < self.share <= 1:
            raise UsageError(f"share must lie in (0, 1], not {self.share!r}")


@dataclass
class Found:
    """What a search came to.

    Attributes:
        winner: the best candidate; the start if nothing was better.
        trials: every candidate that was scored, in the order in which they were proposed.
        estimates: of each, on the rows of the search.
        decisions: what happened in each round, as JSON.
        paid: scores paid for.
        stopped: why the search ended early, None if it did not.
    """

    winner: Candidate
    trials: list[Trial] = field(default_factory=list)
    estimates: dict[Candidate, Estimate] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    paid: int = 0
    stopped: str | None = None


def search_sets(
    space: Space,
    rows: Sequence[Row],
    answer: Answer,
    *,
    sampler: Sampler,
    objective: Objective,
    proposals: int,
    most: int,
    racing: Racing,
    seed: int,
    measure: Callable[[Sequence[Score]], float] | None = None,
    on_best: Callable[[float], None] = lambda _: None,
) -> Found:
    """Search for the best candidate.

    Args:
        space: what is possible.
        rows: what candidates are scored on.
        answer: gives scores; a BudgetSpent that it raises ends the search with what is known.
        sampler: proposes.
        objective: what is raced for.
        proposals: candidates to try beside the start and no seeds at all.
        most: scores that may be paid for; those that are known already are free.
        racing: settings.
        seed: decides proposals and rows.
        measure: what chooses among the finalists, where the objective is only a surrogate of it.
        on_best: called with the value of each race's winner.
    """
    return _Search(space, rows, answer, objective, racing, seed, most, on_best).run(
        sampler, proposals, measure
    )


class _Search:
    """One search and what it knows so far."""

    def __init__(
        self,
        space: Space,
        rows: Sequence[Row],
        answer: Answer,
        objective: Objective,
        racing: Racing,
        seed: int,
        most: int,
        on_best: Callable[[float], None],
    ) -> None:
        self.space, self.rows, self.answer, self.on_best = space, rows, answer, on_best
        self.objective, self.racing, self.seed, self.most = objective, racing, seed, most
        self.rng = random.Random(f"{seed}/proposals")
        self.known: dict[tuple[Candidate, int], float | None] = {}
        self.trials: dict[Candidate, Trial] = {}
        self.found = Found(space.start)

    def run(
        self, sampler: Sampler, proposals: int, measure: Callable[[Sequence[Score]], float] | None
    ) -> Found:
        """All rounds, then the finalists' race."""
        found, best = self.found, self.space.start
        size, rounds, budget = self._size(proposals)
        for number in range(rounds):
            contenders, left = self._contenders(sampler, best, size, proposals, first=not number)
            proposals -= left
            if len(contenders) < 2 or not left:
                break
            best = self._race(contenders, budget, f"round {number + 1}", best)
            if found.stopped:
                break
        if not rounds:
            found.stopped = (
                f"{self.most} scores may be paid for, too few to search with: it takes a larger budget or share, or "
                "more examples"
            )
        elif not found.stopped:
            best = self._final(best, measure)
        found.winner, found.trials = best, list(self.trials.values())
        return found

    def _size(self, proposals: int) -> tuple[int, int, int]:
        """How many candidates a round has, how many rounds there are, and what each of their races may pay for.

        The races' budgets count the start's and the best's scores, which are known after the first round and cost
        nothing; all races have one size and budget, so that they walk along one order of rows.
        """
        least, payable = min(len(self.rows), _LEAST_ROWS), int(_ROUNDS_SHARE * self.most)
        batch = min(self.racing.batch, proposals, payable // max(1, least) - 2)
        if batch < 1:
            return 0, 0, 0
        rounds = min(math.ceil(proposals / batch), max(1, payable // (batch * least)))
        return batch + 2, rounds, int(payable / rounds * (batch + 2) / batch)

    def _contenders(
        self, sampler: Sampler, best: Candidate, size: int, proposals: int, *, first: bool
    ) -> tuple[list[Candidate], int]:
        """The start, the best so far (no seeds at all in the first round), and new ones: how many of them."""
        contenders = list(dict.fromkeys([self.space.start, () if first else best]))
        history = list(self.trials.values())
        new = 0
        while len(contenders) < size and new < proposals:
            blank = [Trial(c, math.nan, 0) for c in contenders if c not in self.trials]
            proposed = propose_new(sampler, self.space, [*history, *blank], self.rng)
            if proposed is None:
                break
            contenders.append(proposed)
            new += 1
        return contenders, new

    def _race(self, contenders: Sequence[Candidate], budget: int, name: str, best: Candidate) -> Candidate:
        """Race candidates, learn from it, and name the winner; the best so far if nothing could be learned."""
        names = {self.space.named(c): c for c in contenders}
        budget = min(max(budget, 2 * len(names)), len(names) * len(self.rows))
        rng = random.Random(f"{self.seed}/rows")  # the same in every race: one order of rows
        race = Race(list(names), self.rows, budget=budget, rng=rng, objective=self.objective)
        while asks := race.ask():
            answers = self._scores([(names[ask.candidate], ask.rows) for ask in asks])
            if answers is None:
                break
            race.tell(answers)
        if not race.spent:
            return best
        result = race.result()
        self._learn(result, names)
        self.found.decisions.append(
            {
                "race": name,
                "candidates": list(names),
                "winner": result.winner,
                "rows": result.history[-1].rows if result.history else {},
                "paid_so_far": self.found.paid,
                "stopped": self.found.stopped,
            }
        )
        return names[result.winner]

    def _final(self, best: Candidate, measure: Callable[[Sequence[Score]], float] | None) -> Candidate:
        """Race the best of all rounds once more, or let the metric itself choose among them."""
        history = list(self.trials.values())
        top = [t.candidate for t in ranked(history)[: self.racing.finalists]]
        finalists = list(dict.fromkeys([self.space.start, *top, together(self.space, history)]))
        if len(finalists) < 2:
            return best
        left = self.most - self.found.paid
        if measure is None:
            return self._race(finalists, left + self._n_known(finalists), "finalists", best)
        return self._choose(finalists, left, best, measure)

    def _choose(
        self,
        finalists: Sequence[Candidate],
        left: int,
        best: Candidate,
        measure: Callable[[Sequence[Score]], float],
    ) -> Candidate:
        """The finalist with the highest metric, on as many rows as can be paid for all of them."""
        order = list(range(len(self.rows)))
        random.Random(f"{self.seed}/rows").shuffle(order)
        # Rows on which little is unknown come first: they are the cheapest to have in common.
        order.sort(key=lambda row: -sum(self._key(c, row) in self.known for c in finalists))
        chosen: list[int] = []
        for row in order:
            left -= sum(key not in self.known for key in {self._key(c, row) for c in finalists})
            if left < 0:
                break
            chosen.append(row)
        answers = self._scores([(c, sorted(chosen)) for c in finalists])
        if answers is None or not chosen:
            return best
        chosen, n_rows = sorted(chosen), len(chosen)
        values = [measure(self._as_scores(chosen, numbers)) for numbers in answers]
        for candidate, value in zip(finalists, values, strict=True):
            self.found.estimates[candidate] = Estimate("metric", value, n_rows, reason=f"from {n_rows} rows")
        self.found.decisions.append(
            {
                "race": "finalists, by the metric itself",
                "candidates": [self.space.named(c) for c in finalists],
                "values": [None if math.isnan(v) else v for v in values],
                "rows": n_rows,
                "paid_so_far": self.found.paid,
            }
        )
        comparable = [-math.inf if math.isnan(v) else v for v in values]
        return finalists[comparable.index(max(comparable))]

    def _scores(self, asks: Sequence[tuple[Candidate, Sequence[int]]]) -> list[list[float | None]] | None:
        """Scores from what is known, and from `answer` for the rest; None if they cannot be paid for."""
        needed: list[tuple[Candidate, list[int]]] = []
        claimed: set[tuple[Candidate, int]] = set()
        for candidate, rows in asks:
            keys = {row: self._key(candidate, row) for row in rows}
            missing = [row for row, key in keys.items() if key not in self.known and key not in claimed]
            claimed |= {keys[row] for row in missing}
            if missing:
                needed.append((candidate, missing))
        if self.found.paid + len(claimed) > self.most:
            return None
        try:
            answers = self.answer(needed) if needed else []
        except BudgetSpent:
            self.found.stopped = "the part of the budget that is for the search was spent"
            return None
        for (candidate, rows), numbers in zip(needed, answers, strict=True):
            self.known |= {self._key(candidate, row): n for row, n in zip(rows, numbers, strict=True)}
            self.found.paid += len(rows)
        return [[self.known[self._key(c, row)] for row in rows] for c, rows in asks]

    def _key(self, candidate: Candidate, row: int) -> tuple[Candidate, int]:
        return self.space.shown(candidate, self.rows[row].group), row

    def _n_known(self, candidates: Sequence[Candidate]) -> int:
        keys = {self._key(c, row) for c in candidates for row in range(len(self.rows))}
        return sum(key in self.known for key in keys)

    def _learn(self, result: RaceResult, names: dict[str, Candidate]) -> None:
        """Keep what is known of each candidate after a race."""
        for name, candidate in names.items():
            estimate = result.estimates[name]
            self.found.estimates[candidate] = estimate
            paid = self.trials[candidate].paid if candidate in self.trials else self.found.paid
            self.trials[candidate] = Trial(
                candidate, estimate.value, estimate.n, self._by_group(candidate), paid
            )
        self.on_best(result.estimates[result.winner].value)

    def _by_group(self, candidate: Candidate) -> dict[str | None, tuple[float, int]]:
        members: dict[str | None, list[int]] = {}
        for row in range(len(self.rows)):
            if is_number(self.known.get(self._key(candidate, row))):
                members.setdefault(self.rows[row].group, []).append(row)
        found: dict[str | None, tuple[float, int]] = {}
        for group, rows in members.items():
            scores = self._as_scores(rows, [self.known[self._key(candidate, row)] for row in rows])
            if isinstance(self.objective, MacroPearson):
                value = pearson(scores, ci=False).value
            else:
                value = fmean(s.value or 0.0 for s in scores)
            if not math.isnan(value):
                found[group] = (value, len(rows))
        return found

    def _as_scores(self, rows: Sequence[int], numbers: Sequence[float | None]) -> list[Score]:
        return [
            Score(str(i), number, self.rows[i].label, self.rows[i].group, self.rows[i].cluster)
            for i, number in zip(rows, numbers, strict=True)
        ]
