"""Which examples tuning learns from, searches on, decides on and reports on; and the guard between them.

    train      seeds are taken from here
    search     candidates race here: the first part of validation
    holdout    the winner must hold here, once: the second part of validation
    test       reported once, at the end

Splits are made of whole clusters, and of texts that are nearly the same, so that nothing stands on both sides; groups
are spread evenly. Everything depends on the examples and the seed alone. Texts of given splits that match are refused
(`leaks`); seeds may match training examples, and nothing else. Of an evaluation set nothing may stand in train; what
candidates are chosen on may be of one that is named, and the splits say so.

It knows examples and texts, nothing of programs or metrics.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spri_dspy.errors import LeakError, UsageError
from spri_dspy.leaks import Leak, Text, check_leaks, find_leaks
from spri_dspy.tasks import Example, as_examples
from spri_dspy.tasks.example import check_trainable, evaluation_set

WITHOUT_BOTH = {"train": 0.2, "validation": 0.5, "test": 0.3}
WITHOUT_TEST = {"train": 0.4, "test": 0.6}
WITHOUT_VALIDATION = {"train": 0.3, "validation": 0.7}
"""Shares of the training examples that stand in for splits that were not given."""


@dataclass(frozen=True)
class Splits:
    """Examples by what they are for; ids start with the name of the split they came from, and are unique.

    Attributes:
        leaks: texts that stand on two sides, where that was allowed.
        chosen_on: evaluation sets that search and holdout are of.
        unscorable: ids of examples that were left out because nothing can score them, and what they lack.
    """

    train: tuple[Example, ...]
    search: tuple[Example, ...]
    holdout: tuple[Example, ...]
    test: tuple[Example, ...]
    leaks: tuple[Leak, ...] = ()
    chosen_on: tuple[str, ...] = ()
    unscorable: Mapping[str, str] = field(default_factory=dict)

    def without(self, unscorable: Mapping[str, str]) -> Splits:
        """These splits without examples that nothing can score; in train they are of use all the same."""
        kept = {
            name: part if name == "train" else tuple(e for e in part if e.id not in unscorable)
            for name, part in self.parts().items()
        }
        return replace(self, **kept, unscorable={**self.unscorable, **unscorable})

    def to_json(self) -> dict[str, Any]:
        """Examples, clusters and groups of each split."""
        return {
            name: {
                "examples": len(part),
                "clusters": len({_unit(e) for e in part}),
                "groups": dict(sorted(Counter(e.group for e in part if e.group is not None).items())),
            }
            for name, part in self.parts().items()
        } | {
            name: value
            for name, value in {
                "leaks": [str(leak) for leak in self.leaks[:20]],
                "chosen_on": list(self.chosen_on),
            }.items()
            if value
        }

    def parts(self) -> dict[str, tuple[Example, ...]]:
        """The splits by name, in order of use."""
        return {"train": self.train, "search": self.search, "holdout": self.holdout, "test": self.test}


def make_splits(
    train: Sequence[Any],
    validation: Sequence[Any] | None,
    test: Sequence[Any] | None,
    *,
    input_names: Sequence[str],
    seeds: Iterable[Mapping[str, Any]] = (),
    text_input: str | None = None,
    fractions: Mapping[str, float] | None = None,
    holdout: float = 0.5,
    seed: int = 0,
    select_on: Sequence[str] = (),
    allow_leak: bool = False,
) -> Splits:
    """Split what is given, and check that nothing stands on two sides.

    Args:
        train: examples, ours or DSPy's. What is missing is taken out of them.
        validation: examples to search and to decide on; None takes them out of `train`.
        test: examples to report on; None takes them out of `train`, an empty sequence goes without.
        input_names: the program's own inputs, in which an example is told from another; of DSPy examples that do not
            say which fields are inputs, those named so are.
        seeds: those that are in use already; examples like them go to train where we split.
        text_input: the input that tells one example from another; by default the one with most to say.
        fractions: of train, validation and test (0: none), where neither validation nor test is given.
        holdout: share of validation that the search does not see, in (0, 1).
        seed: decides the splits.
        select_on: evaluation sets that `validation` may be of; `train` never.
        allow_leak: go on although texts match; the matches are kept in the result.

    Raises:
        LeakError: a text stands on two sides, or an example of an evaluation set in train, or unnamed in validation.
        UsageError: a share is out of range, ids are not unique, or there are too few examples.
    """
    if not 0 < holdout < 1:
        raise UsageError(f"the share of the holdout must lie between 0 and 1, not {holdout!r}")
    given = {"train": train, "validation": validation, "test": test}
    parts = {
        name: split_examples(rows, input_names, name) for name, rows in given.items() if rows is not None
    }
    if not parts["train"]:
        raise UsageError("there are no training examples")
    chosen_on = _evaluation_sets(parts["train"], parts.get("validation", ()), select_on)
    text_of = _Texts([e for part in parts.values() for e in part], text_input, input_names)
    texts = dict.fromkeys(str(seed[text_of.name]) for seed in seeds if seed.get(text_of.name))
    known = [Text(f"seed {n}", text, "seeds") for n, text in enumerate(texts, 1)]
    shares = _missing_shares(parts, fractions)
    if shares:
        whole = parts["train"]
        parts |= cut(whole, shares, text_of=text_of, rng=random.Random(f"{seed}/split"), first=known)
    found = guard(
        [*known, *text_of.texts(parts["train"], "train")],
        text_of.texts(parts["validation"], "validation"),
        text_of.texts(parts.get("test", ()), "test"),
        allow=allow_leak,
    )
    shares = {"search": 1 - holdout, "holdout": holdout}
    halves = cut(parts["validation"], shares, text_of=text_of, rng=random.Random(f"{seed}/confirm"))
    return Splits(
        tuple(parts["train"]),
        halves["search"],
        halves["holdout"],
        tuple(parts.get("test", ())),
        found,
        chosen_on,
    )


def _evaluation_sets(
    train: Iterable[Example], validation: Iterable[Example], select_on: Sequence[str]
) -> tuple[str, ...]:
    """The evaluation sets that validation is of, each of them named."""
    for example in train:
        check_trainable(example)
    found = dict.fromkeys(name for e in validation if (name := evaluation_set(e)) is not None)
    for name in found:
        if name not in select_on:
            raise LeakError(
                f"leak: validation is of {name}, an evaluation set: choose candidates on other data, or name it with "
                f'select_on = ["{name}"], and the result will say that it was chosen on it'
            )
    return tuple(found)


def _missing_shares(parts: Mapping[str, Any], fractions: Mapping[str, float] | None) -> dict[str, float]:
    if "validation" in parts:
        return {} if "test" in parts else WITHOUT_TEST
    if "test" in parts:
        return WITHOUT_VALIDATION
    shares = {name: share for name, share in (fractions or WITHOUT_BOTH).items() if share}
    if (
        not {"train", "validation"} <= set(shares) <= set(WITHOUT_BOTH)
        or abs(sum(shares.values()) - 1) > 1e-6
    ):
        raise UsageError(f"fractions are of train, validation and test, and add up to 1, not {dict(shares)}")
    return shares


def split_examples(rows: Iterable[Any], input_names: Sequence[str], split: str) -> tuple[Example, ...]:
    """The rows of a split, of any kind that `tasks.as_examples` takes; ids become SPLIT/ID.

    Raises:
        UsageError: two have one id, or one is of another kind.
    """
    found = tuple(as_examples(rows, input_names, prefix=f"{split}/"))
    twice = [name for name, count in Counter(e.id for e in found).items() if count > 1]
    if twice:
        raise UsageError(f"two examples have the id {twice[0]!r}; ids must be unique")
    return found


def cut(
    examples: Sequence[Example],
    shares: Mapping[str, float],
    *,
    text_of: _Texts,
    rng: random.Random,
    first: Sequence[Text] = (),
) -> dict[str, tuple[Example, ...]]:
    """Deal examples out, group by group, a cluster (and texts that match) always together.

    Args:
        examples: what to deal out.
        shares: by split; they add up to 1.
        text_of: where an example's text is.
        rng: decides.
        first: texts whose matches go to the first split.

    Returns:
        Each split's examples, in the order in which they were given.
    """
    units = _units(examples, text_of)
    held = (
        {leak.right.id for leak in find_leaks(first, text_of.texts(examples, "examples"))} if first else set()
    )
    by_group: dict[str, list[list[Example]]] = {}
    for unit in units:
        groups = Counter(str(e.group) for e in unit)
        by_group.setdefault(min(groups, key=lambda g: (-groups[g], g)), []).append(unit)
    names = list(shares)
    home: dict[str, str] = {}
    overall = dict.fromkeys(names, 0.0)  # how many examples each split still lacks
    for group in sorted(by_group):
        lacking = dict.fromkeys(names, 0.0)
        members = by_group[group]
        rng.shuffle(members)
        for unit in sorted(members, key=lambda u: not any(e.id in held for e in u)):
            for name in names:
                lacking[name] += shares[name] * len(unit)
                overall[name] += shares[name] * len(unit)
            is_held = any(e.id in held for e in unit)
            chosen = names[0] if is_held else max(names, key=lambda n: lacking[n] + overall[n])
            lacking[chosen] -= len(unit)
            overall[chosen] -= len(unit)
            home |= dict.fromkeys((e.id for e in unit), chosen)
    return {name: tuple(e for e in examples if home[e.id] == name) for name in names}


def guard(
    train: Iterable[Text], validation: Iterable[Text], test: Iterable[Text], *, allow: bool = False
) -> tuple[Leak, ...]:
    """Refuse texts that stand on two of the three sides; seeds belong to the first.

    Raises:
        LeakError: some do, and `allow` is false.
    """
    return check_leaks({"seeds and train": train, "validation": validation, "test": test}, allow=allow)


def _unit(example: Example) -> str:
    return f"cluster {example.cluster}" if example.cluster is not None else f"example {example.id}"


def _units(examples: Sequence[Example], text_of: _Texts) -> list[list[Example]]:
    """Examples that belong together: of one cluster, or with texts that match; in the order of their ids."""
    head: dict[str, str] = {}

    def find(name: str) -> str:
        while head.setdefault(name, name) != name:
            name = head[name]
        return name

    for e in examples:
        head[find(e.id)] = find(_unit(e))
    texts = list(text_of.texts(examples, "examples"))
    for leak in find_leaks(texts, texts):
        head[find(leak.left.id)] = find(leak.right.id)
    units: dict[str, list[Example]] = {}
    for e in sorted(examples, key=lambda e: e.id):
        units.setdefault(find(e.id), []).append(e)
    return list(units.values())


class _Texts:
    """Where the text of an example is: the input that varies most, by the number of texts and then their length."""

    def __init__(self, examples: Sequence[Example], text_input: str | None, preferred: Sequence[str]) -> None:
        names = {name for e in examples for name in e.input_values}
        named = names & set(preferred)
        if text_input is not None and text_input not in names:
            raise UsageError(f"no example has the input {text_input!r}; they have {', '.join(sorted(names))}")
        self.name = text_input or max(sorted(named or names), key=lambda n: _variety(examples, n), default="")

    def texts(self, examples: Iterable[Example], source: str) -> list[Text]:
        """One text an example; of a cluster that shares one text, its first example's only."""
        seen: dict[str, Text] = {}
        for e in examples:
            text = str(e.input_values.get(self.name, ""))
            seen.setdefault(f"{_unit(e)} {text}", Text(e.id, text, source))
        return list(seen.values())


def _variety(examples: Sequence[Example], name: str) -> tuple[int, int]:
    """How many units differ in an input, and how long it is in all."""
    texts = {str(e.input_values[name]) for e in examples if name in e.input_values}
    return len(texts), sum(map(len, texts))
