"""Racing: name the best of several candidates by a set-level metric, paying for part of the scores only.

    result = race(candidates, rows, evaluate, budget=2000, rng=random.Random(0))
    result.winner, result.compare(result.winner, candidates[0])

One score, of one candidate on one row, costs 1. Labels are known beforehand, and that is used:

1. *Which rows.* Rows with extreme labels move a correlation most, so they are paid for more often and
   weighted back to their true number (`Plan`). All candidates walk along one order of rows, whose every
   beginning is such a sample: two candidates always share the rows of the one that has fewer, and its
   estimate is corrected by what the other one saw afterwards.
2. *Which candidates.* After an opening for all, each step compares the leader with every challenger and
   pays for the pair with the largest expected regret: what taking the leader may cost, times how likely.
   Nobody is dropped for good; who has no chance is just never asked again. Among many candidates doubt is so
   common that it would spread the budget thin, so only the best few challengers are asked, fewer by and by.

Doubt is estimated from each row's influence on the metric, paired and without the rows that are already
paid for, so one engine serves every Objective. All depends only on the arguments, `rng` and the answers.
Candidates and rows are names and numbers here: it knows nothing of LMs, and cannot know whether the winner
holds on other rows. That is for a held-out split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from spri_dspy.errors import UnknownNameError, UsageError
from spri_dspy.metrics.comparison import Comparison
from spri_dspy.records import Estimate
from spri_dspy.tuning.racing.objectives import MacroPearson, Mean, Objective, Row
from spri_dspy.tuning.racing.standings import Gap, Sheet

if TYPE_CHECKING:
    import random

__all__ = ["Ask", "MacroPearson", "Mean", "Objective", "Race", "RaceResult", "Row", "Step", "race"]

_OPENING = 0.25  # share of the budget that is split equally before the race is steered
_OPENING_ROWS = 2  # but at least so many rows a stratum, if an equal split reaches them
_STRATUM_ROWS = 2.5  # strata are so large that an equal split would pay for this many of their rows
_CROWD, _CONTENDERS = 6, 4  # more candidates than this are narrowed to so many in the course of the race
_ROUNDS, _ROUNDS_A_CANDIDATE = 20, 3  # steps, unless the caller says how many


class Ask(NamedTuple):
    """Scores that are wanted: a candidate, and indices into the race's rows."""

    candidate: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """The state of a race before one batch of scores, or at its end.

    Attributes:
        spent: scores paid for so far.
        leader: the best candidate so far; None at the opening.
        challenger: the one that may cost most if the leader is taken; None at the opening and at the end.
        regret: how much that is expected to be, in the metric's unit; nan where there is no challenger.
        rows: rows paid for so far, by candidate.
    """

    spent: int
    leader: str | None
    challenger: str | None
    regret: float
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class RaceResult:
    """How a race ended.

    Attributes:
        winner: the candidate to take; of equals, the one named first.
        history: every decision in order.
        spent: scores paid for, never more than the budget.
        estimates: by candidate; the 95 % interval is for the metric on ALL usable rows of the race, so it
            has no width when all are paid for. It does not allow for having picked the winner.
    """

    winner: str
    history: tuple[Step, ...]
    spent: int
    estimates: dict[str, Estimate]
    _race: Race = field(repr=False, compare=False)

    def compare(self, a: str, b: str, *, tests: int | None = None) -> Comparison:
        """Test two candidates against each other; see `Race.compare`."""
        return self._race.compare(a, b, tests=tests)


def race(
    candidates: Sequence[str],
    rows: Sequence[Row],
    evaluate: Callable[[str, Sequence[int]], Sequence[float | None]],
    *,
    budget: int,
    rng: random.Random,
    objective: Objective | None = None,
    rounds: int | None = None,
) -> RaceResult:
    """Find the best candidate; `evaluate(candidate, row_indices)` gives their scores in that order.

    Arguments, and what is raised, are those of `Race`, which is the same plan for callers that cannot
    answer at once.
    """
    running = Race(candidates, rows, budget=budget, rng=rng, objective=objective, rounds=rounds)
    while asks := running.ask():
        running.tell([evaluate(ask.candidate, ask.rows) for ask in asks])
    return running.result()


class Race:
    """A race, step by step: answer `ask()` through `tell()` until it asks nothing more.

    Args:
        candidates: unique names. Put the start first: of equals, the first wins.
        rows: what candidates may be scored on; order does not matter to the outcome's distribution.
        budget: most scores to pay for, at least 2 a candidate.
        rng: decides the order of rows; the same rng and answers give the same race.
        objective: what to be best by, MacroPearson() if None.
        rounds: about how many batches to ask for after the opening (fewer are larger and steer less);
            None: 20, or 3 a candidate where that is more.
        tolerance: stop early when the expected regret is no larger than this, in the metric's unit.

    Raises:
        UsageError: no or repeated candidates, too small a budget, or no row that the objective can use.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        rows: Sequence[Row],
        *,
        budget: int,
        rng: random.Random,
        objective: Objective | None = None,
        rounds: int | None = None,
        tolerance: float = 0.0,
    ) -> None:
        n = len(candidates)
        if not n or len(set(candidates)) < n:
            raise UsageError(f"candidates must be one or more, with unique names, not {list(candidates)!r}")
        if budget < 2 * n:
            raise UsageError(f"a budget of {budget} cannot race {n} candidates: 2 scores each is the least")
        self.candidates, self.budget, self.spent = tuple(candidates), budget, 0
        self.objective: Objective = objective if objective is not None else MacroPearson()
        self._rows, self._tolerance = rows, tolerance
        self._rounds = rounds or max(_ROUNDS, _ROUNDS_A_CANDIDATE * n)
        plan = self.objective.plan(rows, max(3.0, _STRATUM_ROWS * n * len(rows) / budget))
        if not len(plan.rows):
            raise UsageError(f"none of the {len(rows)} rows can be used for {self.objective.name}")
        self._sheet = Sheet(plan.ordered(rng), self.objective, n)
        self._seed = rng.getrandbits(64)
        self._history: list[Step] = []
        self._steps = self._drive()
        self._wanted: dict[int, int] = next(self._steps, {})

    def ask(self) -> list[Ask]:
        """The scores wanted next; the same until they are told, empty when the race is over."""
        plan, paid = self._sheet.plan, self._sheet.paid
        return [
            Ask(self.candidates[c], tuple(map(int, plan.rows[paid[c] : end])))
            for c, end in self._wanted.items()
        ]

    def tell(self, answers: Sequence[Sequence[float | None]]) -> None:
        """Answer the last `ask()`: one sequence an Ask, one score a row, in order.

        None, nan and infinities are missing scores: paid for, dropped, never taken for a number.

        Raises:
            UsageError: nothing was asked, or the answers' lengths do not fit.
        """
        asks = self.ask()
        if not asks or [len(a.rows) for a in asks] != [len(scores) for scores in answers]:
            wanted = [len(a.rows) for a in asks]
            raise UsageError(f"asked for {wanted} scores, told {[len(scores) for scores in answers]}")
        for (c, end), scores in zip(self._wanted.items(), answers, strict=True):
            self._sheet.add(c, scores)
            self.spent += len(scores)
            assert self._sheet.paid[c] == end
        self._wanted = next(self._steps, {})

    def result(self) -> RaceResult:
        """The outcome; before the race is over, how it stands."""
        leader = self._standing()[0]
        estimates = {name: self._estimate(c) for c, name in enumerate(self.candidates)}
        winner = self.candidates[leader]
        return RaceResult(winner, tuple(self._history), self.spent, estimates, self)

    def compare(self, a: str, b: str, *, tests: int | None = None) -> Comparison:
        """Is `a` better than `b`, on the rows that both were scored on? See `comparison.compare`.

        The interval and p are for `tests` comparisons at once (Bonferroni); None takes the number of
        candidates less 1, since the winner was chosen among so many, so that "better than the start" is
        rarely said when no candidate is. Rows weigh what they stand for. Unlike the estimates' intervals
        this is about more rows of the same kind, not about these. Depends only on the race.

        Raises:
            UnknownNameError: no such candidate.
        """
        for name in (a, b):
            if name not in self.candidates:
                raise UnknownNameError("candidate", name, self.candidates)
        tests = tests if tests is not None else max(1, len(self.candidates) - 1)
        first, second = self.candidates.index(a), self.candidates.index(b)
        clusters = [self._rows[i].cluster for i in self._sheet.plan.rows]
        return self._sheet.compare(first, second, clusters, tests=tests, seed=self._seed)

    def _drive(self) -> Generator[dict[int, int], None, None]:
        """Yield how many rows each candidate is to have next; the scores are there when it goes on."""
        n, sheet = len(self.candidates), self._sheet
        if n == 1:
            return
        equal = min(self.budget // n, len(sheet.plan.rows))
        opening = max(int(self.budget * _OPENING / n), _OPENING_ROWS * len(sheet.plan.size), 2)
        self._log(None, None, math.nan)
        yield dict.fromkeys(range(n), min(opening, equal))
        opened = self.spent
        batch = max(1, int((self.budget - self.spent) / (1.5 * self._rounds)))  # 1 or 2 candidates a step
        while True:
            leader, regrets = self._standing()
            part = (self.spent - opened) / max(1, self.budget - opened)
            pairs = {c: r for c, r in regrets.items() if r > self._tolerance and self._more(leader, c, batch)}
            if not pairs:
                break
            nearest = sorted(pairs, key=lambda c: sheet.gap(leader, c).value)[: _contenders(n, part) - 1]
            challenger = max(nearest, key=lambda c: pairs[c])
            self._log(leader, challenger, pairs[challenger])
            yield self._more(leader, challenger, batch)
        self._log(leader, None, math.nan)

    def _more(self, leader: int, challenger: int, batch: int) -> dict[int, int]:
        """Who of the pair gets how many rows: the one that lags, or both; nothing if nothing can be paid."""
        paid, left = self._sheet.paid, self.budget - self.spent
        behind, ahead = sorted((leader, challenger), key=lambda c: paid[c])
        if paid[behind] < paid[ahead]:
            end = min(paid[behind] + min(batch, left), paid[ahead])
            return {behind: end} if end > paid[behind] else {}
        end = min(paid[leader] + min(batch, left // 2), len(self._sheet.plan.rows))
        return {leader: end, challenger: end} if end > paid[leader] else {}

    def _standing(self) -> tuple[int, dict[int, float]]:
        """The leader, and the expected regret of taking it instead of each challenger."""
        sheet = self._sheet
        heard = [c for c in range(len(self.candidates)) if not math.isnan(sheet.measure(c).value)]
        if not heard:
            return 0, {}
        leader = max(heard, key=lambda c: sheet.measure(c).value)
        gaps: dict[int, Gap] = {}
        for _ in heard:  # corrected estimates may favour another; a few rounds settle it
            gaps = {c: sheet.gap(leader, c) for c in heard if c != leader}
            closest = min(gaps, key=lambda c: gaps[c].value, default=leader)
            if closest == leader or gaps[closest].value >= 0:
                break
            leader = closest
        return leader, {c: _regret(gap) for c, gap in gaps.items()}

    def _log(self, leader: int | None, challenger: int | None, regret: float) -> None:
        names = [None if c is None else self.candidates[c] for c in (leader, challenger)]
        rows = dict(zip(self.candidates, self._sheet.paid, strict=True))
        self._history.append(Step(self.spent, names[0], names[1], regret, rows))

    def _estimate(self, candidate: int) -> Estimate:
        sheet, name = self._sheet, self.objective.name
        paid, n = sheet.paid[candidate], sheet.scored(candidate)
        measured = sheet.measure(candidate)
        if math.isnan(measured.value):
            return Estimate(name, math.nan, 0, paid, reason="no scores" if paid else "never asked")
        half = 1.96 * math.sqrt(sheet.variance(candidate))
        low, high, of = measured.value - half, measured.value + half, len(sheet.plan.rows)
        return Estimate(name, measured.value, n, paid - n, low, high, f"from {paid} of {of} rows")


def _contenders(n: int, part: float) -> int:
    """How many of `n` candidates may still be asked when this part of the budget after the opening is spent."""
    return n if n <= _CROWD else max(_CONTENDERS, math.ceil(n ** (1 - part)))


def _regret(gap: Gap) -> float:
    """Expected loss of taking the leader: the mean of max(0, -gap) if the true gap is normal about it."""
    se = math.sqrt(gap.variance)
    if se <= 0:
        return max(0.0, -gap.value)
    z = gap.value / se
    return se * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - gap.value * math.erfc(z / math.sqrt(2)) / 2
