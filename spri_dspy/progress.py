"""How far a run is, what it took so far, and at its end what it took in all.

    with Progress(total=400, prices={"base": (0.15e-6, 0.6e-6)}) as progress:
        spri.run_bulk(program, examples, "runs/mine", on_record=progress.add)
    progress.totals.lines()

On a terminal a bar that moves, elsewhere a line now and then, both on stderr. It knows records and prices; it knows no
run and no program.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spri_dspy.records import Record, Usage
from spri_dspy.screen import console, say

SAY_EVERY_SECONDS = 30.0
"""Where there is no terminal."""


@dataclass
class Totals:
    """What records came to; `add` counts one more.

    Attributes:
        prices: dollars a token in and out, by role; a role that is missing has no known price.
        examples, failed: how many records, and how many of these are of examples that failed.
        usage: calls and tokens of all roles.
        usd: dollars of the same, None once a call had no known price.
        stop_reasons: how often each stage ended in which way, such as "response accepted".
        failures: how often each kind of error, such as "UnreadableAnswer".
        flags: how many records have each flag, such as "truncated:refine_response".
        seconds: since the first was waited for.
    """

    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    examples: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)
    usd: float | None = 0.0
    stop_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since these totals were made."""
        return time.monotonic() - self.started

    def add(self, record: Record) -> None:
        """Count a record."""
        self.examples += 1
        self.stop_reasons.update(f"{stage} {reason}" for stage, reason in record.stop_reasons.items())
        self.flags.update(record.flags)
        if record.error is not None:
            self.failed += 1
            self.failures[record.error.partition(":")[0]] += 1
        for role, used in record.usage.items():
            self.usage += used
            if role in self.prices and self.usd is not None:
                price_in, price_out = self.prices[role]
                self.usd += used.input_tokens * price_in + used.output_tokens * price_out
            elif used.calls:
                self.usd = None

    def spent(self) -> str:
        """Calls with their rate, tokens and dollars, in a few words."""
        rate = self.usage.calls / max(self.seconds, 1e-9)
        tokens = self.usage.input_tokens + self.usage.output_tokens
        usd = "" if self.usd is None else f", {dollars(self.usd)}"
        return f"{self.usage.calls:,} calls ({rate:.1f}/s), {short_count(tokens)} tokens{usd}"

    def lines(self) -> Iterator[str]:
        """What it came to: calls, tokens, dollars and time; then failures and flags, where there were any."""
        used, plural = self.usage, "" if self.usage.calls == 1 else "s"
        cached = f" and {used.cached:,} from the cache" if used.cached else ""
        usd = "no known price" if self.usd is None else dollars(self.usd)
        yield (
            f"{used.calls:,} LM call{plural}{cached}, {used.input_tokens:,} tokens in{reused_share(used)}, "
            f"{used.output_tokens:,} out, {usd}, {self.seconds:.1f} s"
        )
        yield from self.troubles()

    def troubles(self) -> Iterator[str]:
        """How many examples failed, and with what; how many answers have a flag. Nothing if all went well."""
        if self.failures:
            yield "failed: " + counted(self.failures)
        if self.flags:
            stages: dict[str, Counter[str]] = {}
            for flag, n in self.flags.items():
                kind, _, stage = flag.partition(":")
                stages.setdefault(kind, Counter())[stage] = n
            told = (f"{_FLAGS.get(kind, kind)} ({counted(found)})" for kind, found in sorted(stages.items()))
            yield f"examples with answers to look at: {'; '.join(told)}"

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {
            "examples": self.examples,
            "failed": self.failed,
            "calls": self.usage.calls,
            "cached": self.usage.cached,
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "reused_tokens": self.usage.reused_tokens,
            "usd": self.usd,
            "seconds": round(self.seconds, 1),
            "stop_reasons": dict(self.stop_reasons),
            "failures": dict(self.failures),
            "flags": dict(self.flags),
        }


class Progress:
    """Shows how far work is; a context manager.

    Args:
        total: examples in all, None where it is not known.
        done: of these, finished before.
        what: what is counted, in the plural.
        prices: as for `Totals`.
    """

    def __init__(
        self,
        total: int | None,
        *,
        done: int = 0,
        what: str = "examples",
        prices: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.totals = Totals(prices or {})
        self._total, self._done, self._what = total, done, what
        self._said_at, self._phase, self._stream = time.monotonic(), "", sys.stderr
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = _bar(self._total is not None)
            self._task = self._bar.add_task("", total=self._total, completed=self._done, shown=self._shown())
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is None:
            return
        if self._total is None:  # or else what moves would be left standing
            self._bar.update(self._task, total=max(1, self._done), completed=max(1, self._done))
        self._bar.stop()

    def describe(self, phase: str) -> None:
        """Say what is being done, beside how far it is."""
        self._phase = f"{phase}: "
        if self._bar is not None:
            self._bar.update(self._task, shown=self._shown())

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        self._done += 1
        self.totals.add(record)
        if self._bar is not None:
            self._bar.update(self._task, advance=1, shown=self._shown())
        elif time.monotonic() - self._said_at >= SAY_EVERY_SECONDS:
            self._said_at = time.monotonic()
            say(
                self._shown(), stream=self._stream
            )  # what stands in for stderr meanwhile catches the talk of others

    def _shown(self) -> str:
        """How far it is, in one line; failures first, which must not be cut off where the terminal is narrow."""
        of = "" if self._total is None else f" of {self._total:,}"
        failed = f"{self.totals.failed:,} failed, " if self.totals.failed else ""
        spent = f"{failed}{self.totals.spent()}" if self.totals.examples else ""
        return f"{self._phase}{self._done:,}{of} {self._what}{spent and '; '}{spent}"

    def telling(self, also: Callable[[Record], None] | None) -> Callable[[Record], None]:
        """A function for `on_record` that counts a record, and passes it on."""

        def tell(record: Record) -> None:
            self.add(record)
            if also is not None:
                also(record)

        return tell

    @staticmethod
    def tell_call(call: Mapping[str, Any]) -> None:
        """Say that a call ended, for work so small that every call is news; for `on_call`."""
        usage, again = call["usage"], f", sample {call['attempt'] + 1}" if call["attempt"] else ""
        took = (
            "from the cache"
            if call["cached"]
            else f"{usage['output_tokens']:,} tokens, {call['seconds']:.1f} s"
        )
        ended = {"length": ", cut off at max_tokens"}.get(call["finish_reason"], "")
        say(f"{call['stage'] or 'a call'}{again}: {call['error'] or took}{ended}")


def _bar(has_end: bool) -> Any:
    """A bar of rich's with the time to go; where no end is known, the time since the start and something that moves."""
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    shown = TextColumn("{task.fields[shown]}", markup=False, table_column=Column(no_wrap=True))
    columns: list[ProgressColumn] = [SpinnerColumn("line", finished_text=""), shown, TimeElapsedColumn()]
    if has_end:
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8))
        columns = [bar, shown, TimeRemainingColumn(compact=True)]
    return Progress(*columns, console=console(stderr=True), expand=True)


_FLAGS = {"truncated": "cut off at max_tokens", "degenerate": "repeating to the end"}


def flagged(flag: str) -> str:
    """A record's flag in words: "cut off at max_tokens (refine_response)"."""
    kind, _, stage = flag.partition(":")
    return f"{_FLAGS.get(kind, kind)} ({stage})"


def reused_share(used: Usage) -> str:
    """How much of the prompts a server had in its prefix cache, in a few words; "" if nothing, or nobody said."""
    if not used.reused_tokens or not used.input_tokens:
        return ""
    return f" ({used.reused_tokens / used.input_tokens:.0%} from the server's prefix cache)"


def counted(counts: Mapping[str, int]) -> str:
    """Counts in words, the most frequent first: "3 UnreadableAnswer, 1 CallError"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name}" for name, count in ordered)


def short_count(number: int) -> str:
    """A number in few letters: 950, 12.3k, 4.56M."""
    if number < 10_000:
        return f"{number:,}"
    return f"{number / 1e3:.1f}k" if number < 1e6 else f"{number / 1e6:.2f}M"


def dollars(usd: float) -> str:
    """An amount; of less than a cent, two digits that say something."""
    return f"${usd:.2f}" if usd >= 0.01 or not usd else f"${usd:.2g}"
