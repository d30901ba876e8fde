"""The parts of a tuning that a recipe names: LMs, program, metric, data; and how much a search of it may take.

It knows recipes, tasks and searches; it runs nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from spri_dspy.commands.recipe import MetricPart, Recipe
from spri_dspy.errors import DataError, UsageError
from spri_dspy.judges import load_judge
from spri_dspy.leaks import Text
from spri_dspy.lms.spec import LMSpec, check_roles, load_lm
from spri_dspy.metrics import Metric, load_metric
from spri_dspy.runs import file_fingerprint
from spri_dspy.systems import load_system
from spri_dspy.tasks import Example, Task
from spri_dspy.tuning.splits import Splits, cut

_JUDGES = {"alignment": "reappraisal", "empathy": "reappraisal", "mix": "reappraisal", "score": "generic"}


def specs_of(recipe: Recipe) -> dict[str, LMSpec]:
    """LMs by role; the recipe's seed reaches every LM that does not state its own."""
    specs = {"base": LMSpec("offline")} | check_roles(recipe.lms)
    if not recipe.seed:
        return specs
    return {
        role: spec
        if "seed" in spec.options or spec.prefix == "replay"
        else replace(spec, options={**spec.options, "seed": recipe.seed})
        for role, spec in specs.items()
    }


def program_of(recipe: Recipe, task: Task) -> Any:
    """The program that is tuned, without LMs.

    Raises:
        UsageError: no such system or setting, or the saved program to start with cannot be used.
    """
    part = recipe.program
    program = load_system(recipe.path(part.system), task, paper=part.paper, **part.settings)
    if part.start is not None:
        path = Path(recipe.path(part.start))
        try:
            state = json.loads(path.read_text("utf-8"))
            program.load_state(state.get("program", state))
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"program.start: {path} cannot be read as a saved program: {error}") from None
    return program


def make_metric(part: MetricPart, judge_lm: LMSpec, recipe: Recipe) -> Metric:
    """The metric that a recipe names, its judges with their LM.

    Raises:
        UsageError: no such judge or setting.
    """
    name = part.judge or _JUDGES.get(part.name)
    if name is None and part.judge_settings:
        raise UsageError("metric.judge_settings are of a judge: name one as metric.judge")
    judge = load_judge(recipe.path(name), **part.judge_settings).set_lms(load_lm(judge_lm)) if name else None
    settings: dict[str, Any] = {"judge": judge} if judge else {}
    settings |= {"weight": part.weight} if part.weight is not None else {}
    settings |= {"label": part.label} if part.label is not None else {}
    if part.label == "oracle":
        settings["oracle"] = load_judge("rubric").set_lms(load_lm(judge_lm))
    return load_metric(recipe.path(part.name), **settings)


def data_of(recipe: Recipe, task: Task, program: Any) -> tuple[dict[str, str], Any]:
    """Fingerprints of the files, and the examples: train, validation and test."""
    data = recipe.data
    if data.train is not None:
        named = {name: getattr(data, name) for name in ("train", "validation", "test")}
        files = {name: each for name, each in named.items() if each is not None}
    else:
        files = {"file": data.file}
    sources = {
        name: task.source(recipe.path(each) if each is not None else None) for name, each in files.items()
    }
    rows = {name: _examples(task, program, source, data.limit) for name, source in sources.items()}
    known = {name: s if s.startswith("hf:") else file_fingerprint(s) for name, s in sources.items()}
    if data.train is not None:
        return known, tuple(rows.get(name) for name in ("train", "validation", "test"))
    if data.fractions is None:
        return known, (rows["file"], None, None)
    parts = _by_fractions(recipe, task, program, rows["file"])
    return known, (parts["train"], parts["validation"], parts["test"])


def _examples(task: Task, program: Any, source: str, limit: int | None) -> list[Example]:
    """Examples as the program is to see them, each checked.

    Raises:
        DataError: a row cannot be used.
    """
    found: list[Example] = []
    shown = tuple(getattr(program, "label_inputs", ()))
    for example in islice(task.examples(source), limit):
        missing = [name for name in shown if name not in example.label_values]
        if missing:
            raise DataError(f"example {example.id!r} has no {', '.join(missing)}, which this system is shown")
        inputs = {**example.input_values, **{name: example.label_values[name] for name in shown}}
        program.check(inputs, example.group)
        found.append(example.changed(inputs=inputs))
    return found


def _by_fractions(recipe: Recipe, task: Task, program: Any, rows: list[Example]) -> dict[str, list[Example]]:
    """One file cut by the recipe's fractions; what is like a seed goes to train."""
    assert recipe.data.fractions is not None
    shares = {name: share for name, share in recipe.data.fractions.model_dump().items() if share}
    demos = [demo for _, predictor in program.named_predictors() for demo in predictor.demos]
    texts = dict.fromkeys(str(demo[task.text_input]) for demo in demos if demo.get(task.text_input))
    seeds = [Text(f"seed {n}", text, "seeds") for n, text in enumerate(texts, 1)]
    rng = random.Random(f"{recipe.seed}/fractions")
    parts = cut(rows, shares, text_of=cast("Any", _Texts(task.text_input)), rng=rng, first=seeds)
    return {"test": [], **{name: list(part) for name, part in parts.items()}}


@dataclass(frozen=True)
class _Texts:
    """Where the text of an example is."""

    name: str

    def texts(self, examples: Sequence[Example], source: str) -> list[Text]:
        return [Text(e.id, str(e.input_values.get(self.name, "")), source) for e in examples]


def planned_runs(search: Any, splits: Splits) -> dict[str, int]:
    """Program runs of each step of a search, at most: examples times programs. What is in the cache is free."""
    n = {name: len(part) for name, part in splits.parts().items()}
    later = {"decision": 2 * n["confirm"], "test": 2 * n["test"]}
    if hasattr(search, "racing"):
        groups = {e.group for e in splits.train}
        pool = min(n["train"], search.pool.examples * len(groups)) if search.pool.bootstrapped else 0
        races = round(search.racing.share * (search.proposals + 2) * n["search"])
        return {"pool": pool, "search": races, **later}
    options, stages = search.options, len(search.stages or ()) or 6
    boot, trials = n["train"], n["search"]
    optimizer = {
        "labeled_few_shot": 0,
        "bootstrap_few_shot": boot,
        "bootstrap_random_search": _times(options, "num_candidate_programs", 3) * (boot + trials),
        "mipro_v2": _times(options, "num_candidates") * boot + _times(options, "num_trials", 1) * trials,
        "gepa": options.get("max_metric_calls") or 6 * trials + 40,
        "simba": _times(options, "max_steps")
        * _times(options, "bsize")
        * (2 * _times(options, "num_candidates") + 1),
        "copro": _times(options, "depth")
        * (_times(options, "depth") + 1)
        // 2
        * _times(options, "breadth")
        * stages
        * boot,
    }[search.optimizer]
    finals = (search.rounds * (search.finalists + 1) + 1) * trials
    return {"optimizer": search.rounds * optimizer, "finalists": finals, **later}


def _times(options: Mapping[str, Any], name: str, more: int = 0) -> int:
    return options.get(name, 0) + more
