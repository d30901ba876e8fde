"""Worlds to race in: candidates whose scores on every row are known to us, and must be paid for to be seen.

A world comes from recorded judgements (the systems of one model are its candidates) or is made up, with
candidates of random skill, tied or continuous scores, groups, clusters and missing scores. Of scored responses
the metric is macro Pearson; of LLMBar's pairs it is accuracy, and a score is that of one pair over both orders. It
knows what is true in a world; how to find out cheaply is not its business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.recordings import NO_LABEL, Recording, find, models_of, read_rated, read_rows
from spri_dspy.errors import DataError, UsageError
from spri_dspy.metrics import load_metric
from spri_dspy.metrics.set_level import correlation, mean_of_groups, pearson_rows, standardised
from spri_dspy.tuning.racing.race import MacroPearson, Mean, Objective, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

ORACLE = "oracle_rubrics"
"""The system that the recorded settings run with and without; usually the best by far."""

APART = 0.05
"""A gap that a race should see at a tenth of the cost."""


@dataclass(frozen=True)
class World:
    """Candidates, rows and all their scores.

    Attributes:
        name: where it comes from.
        share: the budget, as a share of the cost of every score.
        candidates: their names.
        rows: labelled rows.
        scores: candidates x rows, nan where a score is missing.
        labels, groups: of the rows, as arrays; groups are numbers.
        objective: what to be best by, as races have it.
        truth: each candidate's metric over all its scored rows.
    """

    name: str
    share: float
    candidates: tuple[str, ...]
    rows: list[Row]
    scores: Floats
    objective: Objective = field(default_factory=MacroPearson)
    labels: Floats = field(init=False)
    groups: Integers = field(init=False)
    truth: Floats = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        numbers = {g: i for i, g in enumerate(dict.fromkeys(r.group for r in self.rows))}
        object.__setattr__(self, "labels", np.array([r.label for r in self.rows], dtype=float))
        object.__setattr__(self, "groups", np.array([numbers[r.group] for r in self.rows], dtype=np.int64))
        object.__setattr__(self, "truth", self.measure(self.scores, np.arange(len(self.rows))))

    @property
    def budget(self) -> int:
        """Scores that may be paid for."""
        return int(self.share * self.scores.size)

    def measure(self, scores: Floats, rows: Integers) -> Floats:
        """The metric on some rows, one number per line of scores (nan: missing); 0 where nothing is known."""
        if isinstance(self.objective, MacroPearson):
            return macro_pearson(scores, self.labels[rows], self.groups[rows])
        return mean_of_scored(scores)

    def of(self, keep: Sequence[int], name: str, share: float) -> World:
        """The same rows with some of the candidates, in the order given."""
        chosen = tuple(self.candidates[c] for c in keep)
        return World(name, share, chosen, self.rows, self.scores[list(keep)], self.objective)

    def best_first(self) -> World:
        """The same world, whose first candidate, the start, is the best."""
        best = int(self.truth.argmax())
        order = [best, *(c for c in range(len(self.candidates)) if c != best)]
        return self.of(order, f"{self.name}, the start is the best", self.share)

    def shuffled(self, seed: int) -> World:
        """A world of equals: labels are permuted in their group, or preferences turned at random."""
        import numpy as np

        draw, name = np.random.default_rng(seed), f"{self.name}, permuted labels"
        if not isinstance(self.objective, MacroPearson):
            scores = np.where(draw.random(len(self.rows)) < 0.5, 1 - self.scores, self.scores)
            return replace(self, name=name, scores=scores)
        labels = self.labels.copy()
        for g in np.unique(self.groups):
            at = np.flatnonzero(self.groups == g)
            labels[at] = labels[draw.permutation(at)]
        rows = [replace(row, label=float(h)) for row, h in zip(self.rows, labels, strict=True)]
        return replace(self, name=name, rows=rows)


class Meter:
    """The only way to a score: `pay`. It fails on a score too many; `budget` is the world's, or every score's."""

    def __init__(self, world: World, *, unlimited: bool = False) -> None:
        self._scores, self.spent = world.scores, 0
        self.budget = world.scores.size if unlimited else world.budget

    def pay(self, candidate: int, rows: Sequence[int] | Integers) -> Floats:
        """One score a row, nan where it is missing.

        Raises:
            RuntimeError: the budget is exceeded.
        """
        self.spent += len(rows)
        if self.spent > self.budget:
            raise RuntimeError(f"{self.spent} scores paid for, the budget is {self.budget}")
        return self._scores[candidate, rows]


def macro_pearson(scores: Floats, labels: Floats, groups: Integers) -> Floats:
    """Mean over groups of Pearson's r with the labels, one per line of `scores`, as `set_level.macro` has it.

    Where no group has a value, everybody has 0.
    """
    import numpy as np

    found = np.zeros(len(scores))
    for place, line in enumerate(scores):
        members = [np.flatnonzero(np.isfinite(line) & (groups == g)) for g in range(int(groups.max()) + 1)]
        rows = [(standardised(line[at]), standardised(labels[at])) for at in members if len(at) > 2]
        if rows:
            r = correlation(np.stack([pearson_rows(*each).sum(axis=0) for each in rows]), 0.0)
            found[place] = np.nan_to_num(mean_of_groups(r))
    return found


def mean_of_scored(scores: Floats) -> Floats:
    """Mean of the scores that are there, one per line; 0 where there are none."""
    import numpy as np

    scored = np.isfinite(scores)
    return np.where(scored, scores, 0.0).sum(axis=1) / np.maximum(scored.sum(axis=1), 1)


def recorded_worlds(folder: Path, models: Sequence[str] | None = None) -> list[World]:
    """The worlds of every model of a folder.

    Of scored responses four: with the oracle at 10 and 20 % and without at 10 and 30 %, or all systems at these. Of
    pairs two: all strategies at 10 and 30 %; and at 10 % the best with those that are more than APART below it.

    Args:
        folder: recordings: MODEL__SYSTEM.jsonl, in it or in its rubrics/judge_scores and judging/llmbar_judges.
        models: which models; None means all. A model with fewer than two systems makes no world.

    Raises:
        UsageError: there is no such world.
        DataError: a row cannot be used.
    """
    parts = [find(folder / each) for each in ("rubrics/judge_scores", "judging/llmbar_judges")]
    recordings = [r for part in parts for r in part] or find(folder)
    worlds: list[World] = []
    for model in models_of(recordings):
        if models and model not in models:
            continue
        mine = [r for r in recordings if r.model == model]
        pairs = [r for r in mine if "preferred" in next(read_rows(r.path), {})]
        worlds += _of_scores(model, [r for r in mine if r not in pairs]) + _of_pairs(model, pairs)
    if not worlds:
        raise UsageError(
            f"nothing to race in {str(folder)!r}: it, or its rubrics/judge_scores or judging/llmbar_judges, should "
            f"hold MODEL__SYSTEM.jsonl of two systems of a model{' among ' + ', '.join(models) if models else ''}"
        )
    return worlds


def _of_scores(model: str, recordings: Sequence[Recording]) -> list[World]:
    if len(recordings) < 2:
        return []
    table = _Table(recordings)
    has_oracle = ORACLE in table.systems
    name = f"{model}, with {ORACLE}" if has_oracle else f"{model}, all systems"
    less = f"{model}, without {ORACLE}" if has_oracle else name
    without = [ORACLE] if has_oracle else []
    worlds = [table.world(name, share) for share in ((0.1, 0.2) if has_oracle else (0.1, 0.2, 0.3))]
    worlds += [table.world(less, share, without) for share in ((0.1, 0.3) if has_oracle else ())]
    return [w for w in worlds if len(w.candidates) > 1]


def _of_pairs(model: str, recordings: Sequence[Recording]) -> list[World]:
    """Rows are pairs, told apart by id; a pair that a strategy did not judge, in one order or both, has no score."""
    import numpy as np

    if len(recordings) < 2:
        return []
    read = load_metric("pair_accuracy").read
    rows: dict[str, Row] = {}
    found: dict[str, dict[str, float | None]] = {}
    for recording in recordings:
        mine = found[recording.system] = {}
        for line in read_rows(recording.path):
            if "id" not in line or line.get("preferred") not in (1, 2):
                raise DataError(f"{recording.path}: a pair has no id, or no preferred response 1 or 2")
            name, subset = str(line["id"]), line.get("subset")
            mine[name] = read(line, line)
            group = None if subset is None else str(subset)
            rows.setdefault(name, Row(float(line["preferred"]), group, name))
    scores = np.array([[mine.get(name) for name in rows] for mine in found.values()], dtype=float)
    whole = World(f"{model}, pairs", 0.1, tuple(found), list(rows.values()), scores, Mean("pair accuracy"))
    best = int(whole.truth.argmax())
    far = [c for c in range(len(found)) if c == best or whole.truth[best] - whole.truth[c] > APART]
    worlds = [whole, replace(whole, share=0.3)]
    if len(far) > 1:
        worlds.append(whole.of(far, f"{model}, pairs, the best and those {APART:g} below", 0.1))
    return worlds


class _Table:
    """The labelled rows of one model's systems, brought together.

    Rows are told apart by instance, human score and count. Two rows of one instance with one human score
    cannot be told apart where files differ in order; which is which makes no difference to any truth.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.systems: dict[str, dict[tuple[str, float, int], float | None]] = {}
        group: dict[tuple[str, float, int], str | None] = {}
        for recording in recordings:
            seen: Counter[tuple[str, float]] = Counter()
            mine = self.systems[recording.system] = {}
            for row in read_rated(recording.path):
                if row.human is None or row.human == NO_LABEL:
                    continue
                key = (row.instance, row.human, seen[row.instance, row.human])
                seen[row.instance, row.human] += 1
                mine[key] = row.recorded
                group.setdefault(key, row.capability)
        self._keys = sorted(group)
        self._rows = [Row(key[1], group[key], key[0]) for key in self._keys]

    def world(self, name: str, share: float, without: Sequence[str] = ()) -> World:
        """The world of these systems but some; a system without any score is no candidate."""
        import numpy as np

        given = {s: [m.get(k) for k in self._keys] for s, m in self.systems.items() if s not in without}
        given = {s: row for s, row in given.items() if any(v is not None for v in row)}
        scores = np.array([[np.nan if v is None else v for v in row] for row in given.values()], dtype=float)
        return World(name, share, tuple(given), self._rows, scores)


def made_up_world(seed: int, share: float | None = None) -> World:
    """A world drawn at random: 3 to 12 candidates, 1 to 9 groups, 200 to 2,800 rows; budget 15 to 40 % if None."""
    import numpy as np

    draw = np.random.default_rng(seed)
    n_candidates, n_groups = int(draw.integers(3, 13)), int(draw.integers(1, 10))
    per_cluster = int(draw.choice([1, 1, 2, 4]))
    n_clusters = int(draw.choice([200, 400, 800, 1600, 2800])) // per_cluster
    cluster = np.repeat(np.arange(n_clusters), per_cluster)
    home = draw.choice(n_groups, n_clusters, p=draw.dirichlet(np.full(n_groups, 8.0)))
    group = home[cluster]
    worth = 0.8 * draw.normal(size=len(cluster)) + 0.6 * draw.normal(size=n_clusters)[cluster]
    labels = _label(worth, str(draw.choice(["five", "skewed", "binary", "ten", "continuous"])), draw)
    skill = draw.uniform(0.1, 0.6) + draw.choice([0.03, 0.06, 0.12]) * draw.normal(size=n_candidates)
    common = draw.uniform(0.1, 0.7)
    shared = 0.9 * draw.normal(size=len(cluster)) + 0.43 * draw.normal(size=n_clusters)[cluster]
    scores = np.empty((n_candidates, len(cluster)))
    for candidate in range(n_candidates):
        r = np.clip(skill[candidate] + 0.1 * draw.normal(size=n_groups), -0.2, 0.95)[group]
        own = 0.92 * draw.normal(size=len(cluster)) + 0.4 * draw.normal(size=n_clusters)[cluster]
        noise = np.sqrt(common) * shared + np.sqrt(1 - common) * own
        scores[candidate] = _score(r * worth + np.sqrt(1 - r * r) * noise, draw)
    rows = [Row(float(h), f"g{g}", f"c{c}") for h, g, c in zip(labels, group, cluster, strict=True)]
    names = tuple(f"candidate {i}" for i in range(n_candidates))
    drawn = float(draw.choice([0.15, 0.2, 0.3, 0.4]))
    return World(f"made up {seed}", drawn if share is None else share, names, rows, scores)


def _label(worth: Floats, kind: str, draw: np.random.Generator) -> Floats:
    """Labels of a latent worth: on 2, 5 or 10 levels with random cuts, or as it is."""
    import numpy as np

    if kind == "continuous":
        return worth
    levels = {"five": 5, "skewed": 5, "binary": 2, "ten": 10}[kind]
    cuts = np.sort(0.9 * draw.normal(size=levels - 1) - (0.6 if kind == "skewed" else 0.0))
    return np.asarray(np.searchsorted(cuts, worth) + 1, dtype=np.float64)


def _score(latent: Floats, draw: np.random.Generator) -> Floats:
    """A judge's habits: five levels, mostly the top one, half steps, the ends only, or continuous; gaps."""
    import numpy as np

    habit = str(draw.choice(["five", "generous", "halves", "ends", "continuous"]))
    score: Floats = {
        "five": np.clip(np.round(latent + 3.3), 1, 5),
        "generous": np.clip(np.round(latent + 4.6), 1, 5),
        "halves": np.clip(np.round(2 * (0.9 * latent + 3.5)) / 2, 1, 5),
        "ends": np.where(latent < -0.3, 1.0, np.where(latent < 0, 3.0, 5.0)),
        "continuous": latent.copy(),
    }[habit]
    missing = draw.uniform(0, 0.05) if draw.random() < 0.4 else 0.0
    score[draw.random(len(score)) < missing] = np.nan
    return score
