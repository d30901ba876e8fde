"""Running programs on examples for their scores, once and for all: what is finished is never run or paid again.

    evaluator = Evaluator(metric, folder, budget=Budget(max_calls=5000))
    mine, theirs = evaluator.scores([(program, examples), (other, examples)])

Every program has a run of its own (FOLDER/trials/HASH, the judge's inside it), and all share one call cache, one
limiter and one budget. Two programs that show an example the same prompts, because they differ in other groups' seeds
only, share its score. Scores come back in the order of the examples; nothing depends on what finished first, so the
same requests after a kill give the same answers.

It knows programs as modules with `acall(group=..., **inputs)`, and metrics. Which candidate is worth a run is decided
elsewhere. LMs that were not made by `load_lm` obey no budget and no cache here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from spri_dspy.bulk import FUSE_LEAST, arun_bulk
from spri_dspy.errors import BudgetSpent, PrerequisiteError, SpriError, UsageError
from spri_dspy.event_loop import run_to_end
from spri_dspy.lms.budget import LIMITS, Budget, price_of
from spri_dspy.lms.cache import CallCache
from spri_dspy.lms.client import ScopedLM
from spri_dspy.lms.concurrency import Limiter
from spri_dspy.lms.scope import Retry, Scope, use_scope
from spri_dspy.metrics import Metric, judge_inputs
from spri_dspy.metrics.metric import ORACLE
from spri_dspy.program import models_of
from spri_dspy.records import Record, Score
from spri_dspy.runs import CACHE, MANIFEST, RunDir
from spri_dspy.tasks import Example, make_example
from spri_dspy.tuning.programs import identity, lm_of, resampled

logger = logging.getLogger(__name__)

TRIALS, JUDGED = "trials", "judged"
"""Folders of the programs' runs, and of the judge's run inside each of them."""

_OUTAGE = (
    "CallError",
    "LMProviderError",
    "LMRateLimitError",
    "LMServerError",
    "LMTimeoutError",
    "LMTransportError",
    "LMUnexpectedError",
)


@dataclass(frozen=True)
class Spent:
    """What finished calls took: calls, tokens in and out together, and dollars (0 where no limit in dollars is set).

    Averages and reserves may be fractions.
    """

    calls: float = 0
    tokens: float = 0
    usd: float = 0.0

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)

    def times(self, factor: float) -> Spent:
        """So many times as much."""
        return Spent(self.calls * factor, self.tokens * factor, self.usd * factor)


@dataclass
class _Trial:
    """A program, the name of its run, and its keys by group."""

    program: Any
    name: str
    keys: dict[str | None, str] = field(default_factory=dict)


class Evaluator:
    """Scores of programs on examples, resumably.

    Args:
        metric: what to score by; its judge and its oracle must have their LMs.
        folder: where runs and finished calls are kept; an existing one is gone on with.
        budget: what all calls together may spend. What the folder's finished calls took counts as spent.
        concurrency: calls in flight at most, per LM.
        rollouts: how often the noisy part is sampled for every example, at least 1: the judge if there is one,
            else the whole program. Scores are means of the samples that could be read.
        retry: how transient failures of single calls are tried again.
        on_record: called with each new record, of programs and of judges.
        on_phase: called with what is being done and how it stands, in a few words.

    Attributes:
        budget: what is spent, and what may be.

    Raises:
        UsageError: a budget, and an LM that does not obey one.
    """

    def __init__(
        self,
        metric: Metric,
        folder: str | Path,
        *,
        budget: Budget | None = None,
        concurrency: int = 16,
        rollouts: int = 1,
        retry: Retry | None = None,
        on_record: Callable[[Record], None] | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> None:
        self.metric, self.folder, self.budget = metric, Path(folder), budget or Budget()
        self.on_record, self._on_phase, self._phase, self._best = on_record, on_phase, "start", -math.inf
        self._rollouts, self._concurrency, self._retry = rollouts, concurrency, retry or Retry()
        self._known: dict[tuple[str, str], Score] = {}
        self._trials: dict[int, _Trial] = {}
        self._names: dict[str, _Trial] = {}
        self._lms: dict[int, Any] = {}
        self._resumed = False
        self.admit([m for m in (metric.judge, metric.oracle) if m is not None])

    def scores(self, asks: Sequence[tuple[Any, Sequence[Example]]]) -> list[list[Score]]:
        """Score programs on examples, all of them at the same time.

        Args:
            asks: programs, each with its examples; ids are unique among all examples ever asked for. Programs must
                not be changed afterwards.

        Returns:
            One list an ask, one Score an example, in order. A failed example has no value.

        Raises:
            BudgetSpent: the budget is spent; what was finished is kept.
            PrerequisiteError: a failure that every example would meet.
        """
        todo: dict[str, list[Example]] = {}
        claimed: set[tuple[str, str]] = set()
        wanted: list[list[tuple[str, str]]] = []
        for program, examples in asks:
            trial = self._trial(program)
            keys = [(self._key(trial, example), example.id) for example in examples]
            for key, example in zip(keys, examples, strict=True):
                if key not in self._known and key not in claimed:
                    claimed.add(key)
                    todo.setdefault(trial.name, []).append(example)
            wanted.append(keys)
        if todo:
            run_to_end(self._score_all(todo))
        return [[self._known[key] for key in keys] for keys in wanted]

    def tell(self, phase: str | None = None, *, best: float = -math.inf) -> None:
        """Let whoever watches know what is being done, and the highest metric on the search split so far.

        What the offline LM scores is no figure to show.
        """
        self._phase = phase or self._phase
        self._best = max(self._best, best if math.isfinite(best) else -math.inf)
        specs = [getattr(lm, "spec", None) for lm in self._lms.values()]
        is_figure = math.isfinite(self._best) and not any(spec and spec.prefix == "offline" for spec in specs)
        if self._on_phase:
            self._on_phase(self._phase + (f", best {self._best:.3g}" if is_figure else ""))

    def nothing_scored(self, program: Any, examples: Sequence[Example]) -> SpriError:
        """The error for a program of which no example could be scored: how it began. Its run is thrown away."""
        folder = self.folder / TRIALS / self._trial(program).name
        runs = [path.parent for path in (folder / MANIFEST, *folder.glob(f"{JUDGED}/*/{MANIFEST}"))]
        records = [record for run in runs for record in RunDir.read(run).records()]
        shown = next((str(record.outputs)[:120] for record in reversed(records)), "nothing")
        unread = f"no score can be read of what was answered, such as {shown}"
        why = next((record.error for record in records if record.error), unread)
        shutil.rmtree(folder)  # or it would be taken for finished once the reason is mended
        return PrerequisiteError(
            f"none of the first {len(examples)} examples could be scored, so the search was not begun: {why}; "
            "mend that and start the same again, finished calls are kept"
        )

    def records(self, program: Any, examples: Sequence[Example]) -> list[Record]:
        """The records of examples that were scored by running this program, in their order.

        Those whose score was taken over from a program with the same prompts, and those that never ran, are left out.
        """
        folder = self.folder / TRIALS / self._trial(program).name
        found = {r.id: r for r in RunDir.read(folder).records()} if folder.exists() else {}
        return [found[e.id] for e in examples if e.id in found]

    def run(self, module: Any, examples: Sequence[Example], name: str) -> list[Record]:
        """Run any module over examples in FOLDER/NAME, resumably: its records in the examples' order.

        Args:
            module: a DSPy module with `acall(group=..., **inputs)`; it is not scored.
            examples: with unique ids.
            name: of the run's folder.

        Raises:
            BudgetSpent: the budget is spent; what was finished is kept.
            PrerequisiteError: a failure that every example would meet.
        """
        self.admit([module])
        manifest = {"system": name, "program": identity(module), "models": models_of(module)}

        async def work() -> list[Record]:
            with closing(CallCache(self.folder / CACHE)) as cache:
                scope = self.scope(cache)
                return await self._bulk(module, examples, self.folder / name, manifest, scope)

        found = {record.id: record for record in run_to_end(work())}
        return [found[e.id] for e in examples]

    def labelled(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the label that the metric's oracle gives them; as they are if it has none.

        An example whose oracle score cannot be had (no rubric, no answer, nothing readable) gets no label.
        """
        oracle = self.metric.oracle
        if oracle is None:
            return list(examples)
        asked = [
            (e, judge_inputs(oracle, e.input_values, {}, e.label_values, rubric="label")) for e in examples
        ]
        ready = [e.changed(inputs=inputs) for e, inputs in asked if inputs is not None]
        scores = {r.id: r.outputs.get("scores", {}) for r in self.run(oracle, ready, "labels") if r.ok}
        labels = {name: next(iter(found.values()), None) for name, found in scores.items()}
        return [e.changed(labels={**e.label_values, ORACLE: labels.get(e.id)}) for e in examples]

    def spent(self) -> Spent:
        """What the finished calls in this folder took, those of earlier starts included."""
        count = Budget(max_usd=self.budget.max_usd)
        count.resume(self._calls(), self._lms.values())
        return Spent(count.calls, count.tokens, count.usd)

    def costs(self) -> dict[str, Any]:
        """The same in full, as JSON; dollars are None where a price is unknown."""
        prices: dict[str, tuple[float, float]] = {}
        for lm in self._lms.values():
            with suppress(UsageError):
                prices[getattr(getattr(lm, "spec", None), "model", lm.model)] = price_of(lm)
        spent = self._calls()
        dollars = [prices[m][0] * i + prices[m][1] * o for m, (_, i, o) in spent.items() if m in prices]
        calls, tokens_in, tokens_out = (sum(each) for each in zip((0, 0, 0), *spent.values(), strict=True))
        usd = round(sum(dollars), 6) if len(dollars) == len(spent) else None
        return {"calls": calls, "input_tokens": tokens_in, "output_tokens": tokens_out, "usd": usd}

    def _calls(self) -> Mapping[str, tuple[int, int, int]]:
        """Finished calls, input and output tokens, by model."""
        if not (self.folder / CACHE).exists():
            return {}
        with closing(CallCache(self.folder / CACHE)) as cache:
            return cache.spent()

    @contextmanager
    def holding_back(self, reserve: Spent) -> Generator[None]:
        """Let calls in the block spend only what leaves this much of the budget."""
        budget = self.budget
        limits = {name: getattr(budget, name) for name in LIMITS}
        for name, limit in limits.items():
            if limit is not None:
                left = limit - getattr(reserve, name.removeprefix("max_"))
                setattr(budget, name, left if name == "max_usd" else math.floor(left))
        try:
            yield
        finally:
            for name, limit in limits.items():
                setattr(budget, name, limit)

    def _trial(self, program: Any) -> _Trial:
        found = self._trials.get(id(program))
        if found is None or found.program is not program:
            self.admit([program])
            found = _Trial(program, identity(program))
            self._trials[id(program)] = found
            self._names.setdefault(found.name, found)
        return found

    def _key(self, trial: _Trial, example: Example) -> str:
        """What decides the example's score: the program with the demos of the example's group only."""
        group_of = getattr(trial.program, "group_of", None)
        group = group_of(example.input_values) if example.group is None and group_of else example.group
        if group not in trial.keys:
            trial.keys[group] = identity(trial.program, group)
        return trial.keys[group]

    def admit(self, modules: Iterable[Any], lms: Iterable[Any] = ()) -> None:
        """Note LMs, the modules' and others, whose prices a budget in dollars needs.

        Raises:
            UsageError: there is a budget, and an LM obeys none.
        """
        for module in modules:
            for _, predictor in module.named_predictors():
                if (lm := lm_of(predictor)) is not None:
                    self._lms[id(lm)] = lm
        self._lms |= {id(lm): lm for lm in lms}
        strange = [lm.model for lm in self._lms.values() if not isinstance(lm, ScopedLM)]
        if strange and any(getattr(self.budget, name) is not None for name in LIMITS):
            raise UsageError(
                f"the LM {strange[0]} obeys no budget: make it with load_lm, or give it as an LM string"
            )

    def scope(self, cache: CallCache, *, in_threads: bool = False) -> Scope:
        """What the calls of this experiment go through; the limit on calls in flight holds in an event loop only."""
        if not self._resumed:
            self.budget.resume(cache.spent(), self._lms.values())
        self._resumed = True
        slots = None if in_threads else Limiter(self._concurrency)
        return Scope(cache=cache, slots=slots, retry=self._retry, budget=self.budget)

    async def _score_all(self, todo: Mapping[str, Sequence[Example]]) -> None:
        """Run every trial on its examples and keep the scores; samples one after another, trials at once."""
        samples: dict[str, list[list[Score]]] = {name: [] for name in todo}
        with closing(CallCache(self.folder / CACHE)) as cache:
            scope = self.scope(cache)
            for sample in range(self._rollouts):
                work = [self._score(self._names[n], examples, sample, scope) for n, examples in todo.items()]
                # All are waited for: one that is stopped in the middle would lose calls that are paid for.
                results = await asyncio.gather(*work, return_exceptions=True)
                errors = [r for r in results if isinstance(r, BaseException)]
                if errors:
                    raise next((e for e in errors if not isinstance(e, BudgetSpent)), errors[0])
                for name, scores in zip(todo, results, strict=True):
                    assert not isinstance(scores, BaseException)
                    samples[name].append(scores)
        for name, examples in todo.items():
            for example, *scores in zip(examples, *samples[name], strict=True):
                self._known[self._key(self._names[name], example), example.id] = _mean_score(scores)

    async def _score(
        self, trial: _Trial, examples: Sequence[Example], sample: int, scope: Scope
    ) -> list[Score]:
        """One sample of the scores of a trial."""
        metric, folder = self.metric, self.folder / TRIALS / trial.name
        judge = metric.judge
        repeated = sample if judge is None else 0
        asked = [_sampled(e, repeated) for e in examples]
        manifest = self._manifest(trial)
        program = resampled(trial.program, repeated)
        records = await self._bulk(program, asked, folder, manifest, scope)
        if judge is not None:
            answered = [_sampled(each, sample) for each in self._answered(records, examples)]
            manifest |= {"judge": judge.name, "judge_version": judge.version, "models": models_of(judge)}
            judging = resampled(judge, sample)
            records = await self._bulk(judging, answered, folder / JUDGED / judge.name, manifest, scope)
        suffix = len(_suffix(sample))
        found = [replace(r, id=r.id[:-suffix]) if suffix else r for r in records]
        return metric.scores(found, examples)

    def _manifest(self, trial: _Trial) -> dict[str, Any]:
        return {
            "task": getattr(trial.program, "task_name", None),
            "system": type(trial.program).__name__,
            "program": trial.name,
            "models": models_of(trial.program),
            "metric": self.metric.identity,
        }

    def _answered(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Example]:
        """What the judge is shown: examples that finished with something to judge."""
        found: list[Example] = []
        labels = {e.id: e.label_values for e in examples}
        for r in records:
            inputs = judge_inputs(self.metric.judge, r.inputs, r.outputs, labels[r.id]) if r.ok else None
            if inputs is not None:
                found.append(make_example(r.id, inputs, r.group, r.cluster, labels[r.id]))
        return found

    async def _bulk(
        self, module: Any, examples: Sequence[Example], path: Path, manifest: Mapping[str, Any], scope: Scope
    ) -> list[Record]:
        """Run what is not finished; the records of these examples, in no particular order."""
        wanted = {e.id for e in examples}
        with RunDir.create(path, manifest) as run:
            try:
                await arun_bulk(
                    _InScope(module, scope),
                    examples,
                    run,
                    concurrency=self._concurrency,
                    cache_folder=self.folder / CACHE,
                    on_record=self.on_record,
                )
            except PrerequisiteError as error:
                if not self._known or not _is_own_fault([r for r in run.records() if r.id in wanted]):
                    raise
                logger.warning("%s fails on example after example and is given up: %s", path, error)
            return [r for r in run.records() if r.id in wanted]


def unscorable(metric: Metric, examples: Sequence[Example]) -> dict[str, str]:
    """The examples that no program can be scored on, by id, and what they lack. Calls nothing."""
    found: dict[str, str] = {}
    anything = {"response": "?", "principles": "?"}
    for e in examples:
        needs = [(metric.judge, anything, "run")]
        if metric.oracle is not None and ORACLE not in e.label_values:
            needs.append((metric.oracle, {}, "label"))
        elif metric.label and metric.label_of(e) is None:
            found[e.id] = f"no label {metric.label}"
        for judge, outputs, rubric in needs:
            if judge is not None and not judge_inputs(
                judge, e.input_values, outputs, e.label_values, rubric=rubric
            ):
                asked = [name for name in judge.inputs if name not in e.input_values and name not in outputs]
                found[e.id] = f"the judge {judge.name} is shown {', '.join(asked)}, which it has not"
    return found


class _InScope:
    """A module whose calls all happen in one scope, whichever run they belong to."""

    def __init__(self, module: Any, scope: Scope) -> None:
        self._module, self._scope = module, scope
        self.named_predictors: Callable[[], Any] = module.named_predictors

    async def acall(self, **inputs: Any) -> Any:
        with use_scope(self._scope):
            return await self._module.acall(**inputs)


def _is_own_fault(records: Sequence[Record]) -> bool:
    """True if what is run fails by itself (too long a prompt, nothing readable), and not because a server does."""
    errors = [r.error.partition(":")[0] for r in records if r.error]
    return len(errors) >= FUSE_LEAST and 2 * sum(name in _OUTAGE for name in errors) < len(errors)


def _suffix(sample: int) -> str:
    return f"~{sample}" if sample else ""


def _sampled(example: Example, sample: int) -> Example:
    return example.changed(id=example.id + _suffix(sample)) if sample else example


def _mean_score(samples: Sequence[Score]) -> Score:
    values = [s.value for s in samples if s.value is not None]
    return replace(samples[0], value=fmean(values) if values else None)
