"""How long the leak guard takes, which edits it sees through, and which different texts it takes for one.

Time: generated texts against a few seeds, with leaks planted among them.

The texts are random words with the frequencies of natural text (the n-th most frequent word is n times
rarer than the first). Every thousandth text is a seed, in turn as it is, with one word replaced, and
followed by as much other text. With --preamble, every text stands under one preamble. Making the texts is not counted.

Recall: the real texts of the held-out half (the constants for long texts were set on the other), each edited once,
against the half as it is, by kind and strength of edit (`text_edits`). False: matches of different texts, as they are,
and of a text of the half with another's edit. It knows nothing of other guards.

    python -m benchmarks leaks [--only time] [--texts 100000] [--characters 1000] [--seeds 50] [--preamble 2000]
    python -m benchmarks leaks --only recall [--data ../shared/data] [--strengths 0.05 0.1 0.2 0.3] [--half 1]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from benchmarks.text_edits import EDITS
from spri_dspy.leaks import Text, find_leaks

PLANT_EVERY = 1_000
"""One text in this many is made from a seed."""


class Writer:
    """Writes texts of about `characters` characters; the same `rng` state gives the same texts.

    Args:
        rng: the only source of chance.
        characters: length of a text, up to a word more or less.
        quotes: share of the texts that hold a character outside ASCII, in [0, 1].
        preamble: characters of a preamble that all texts share.
    """

    def __init__(self, rng: random.Random, characters: int, quotes: float = 0.0, preamble: int = 0) -> None:
        letters = "etaoinshrdlucmfwypvbg"
        self._rng, self._quotes = rng, quotes
        self._vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(20_000)]
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._vocabulary) + 1)))
        self._n_words = max(1, characters // 6)
        self._preamble = rng.choices(self._vocabulary, cum_weights=self._weights, k=preamble // 6)

    def text(self) -> str:
        """A new text."""
        words = self._rng.choices(self._vocabulary, cum_weights=self._weights, k=self._n_words)
        if self._rng.random() < self._quotes:
            words[0] = f"\u201c{words[0]}\u201d"
        return " ".join([*self._preamble, *words])

    def changed(self, text: str, how: int) -> str:
        """A text that the guard must find beside `text`: the same, one word replaced, or continued."""
        if how % 3 == 0:
            return text
        if how % 3 == 1:
            words = text.split()
            words[len(words) // 2] = "xylophone"
            return " ".join(words)
        return f"{text} {self.text()}"


class Stream:
    """Evaluation texts, one at a time; `cpu_seconds` is the time spent on writing them."""

    def __init__(self, writer: Writer, seeds: Sequence[Text], n: int) -> None:
        self._writer, self._seeds, self._n = writer, seeds, n
        self.cpu_seconds = 0.0
        self.planted: set[tuple[str, str]] = set()

    def __iter__(self) -> Iterator[Text]:
        for i in range(self._n):
            start = time.process_time()
            plant, rest = divmod(i, PLANT_EVERY)
            seed = self._seeds[plant % len(self._seeds)]
            written = self._writer.text() if rest else self._writer.changed(seed.text, plant)
            text = Text(str(i), written, "evaluation")
            if not rest:
                self.planted.add((seed.id, text.id))
            self.cpu_seconds += time.process_time() - start
            yield text


def _measure_time(options: argparse.Namespace) -> bool:
    """Print one line; whether what was found is what was planted."""
    writer = Writer(random.Random(options.seed), options.characters, options.quotes, options.preamble)
    seeds = [Text(f"seed-{i}", writer.text(), "seeds") for i in range(options.seeds)]
    stream = Stream(writer, seeds, options.texts)
    start = time.process_time()
    leaks = find_leaks(seeds, stream)
    seconds = time.process_time() - start - stream.cpu_seconds
    found = {(leak.left.id, leak.right.id) for leak in leaks}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    print(
        f"{options.texts} texts of {options.characters} characters against {options.seeds} seeds: {seconds:.1f} s of "
        f"CPU ({seconds / max(1, options.texts) * 1e6:.0f} microseconds a text; writing them took "
        f"{stream.cpu_seconds:.1f} s more), peak memory {peak:.0f} MB; planted {len(stream.planted)}, "
        f"missed {len(stream.planted - found)}, false {len(found - stream.planted)}"
    )
    return found == stream.planted


def read_texts(data: Path, name: str, half: slice = slice(None)) -> list[Text]:
    """Distinct texts of a real collection ("posts", "instructions" or "questions"): part of a fixed random order."""
    files = {
        "posts": ("reappraisal/pool_400.jsonl", "post"),
        "instructions": ("rubrics/biggen_765.jsonl", "input"),
        "questions": ("truthfulqa/mc.jsonl", "question"),
    }
    file, field = files[name]
    rows = [json.loads(line) for line in (data / file).read_text("utf-8").splitlines()]
    rows = random.Random(7).sample(rows, len(rows))[half]
    return list({row[field]: Text(str(row["id"]), row[field], name) for row in rows}.values())


def _measure_recall(data: Path, half: int, strengths: Sequence[float]) -> None:
    vocabulary = sorted({word for text in read_texts(data, "posts") for word in text.text.split()})
    for name in ("posts", "instructions", "questions"):
        everything = read_texts(data, name)
        pairs = {
            (a.left.id, a.right.id) for a in find_leaks(everything, everything) if a.left.id != a.right.id
        }
        print(f"{name}: {len(everything)} different texts, {len(pairs) // 2} pairs of them match: ", end="")
        print(", ".join(f"{a} = {b}" for a, b in sorted(pairs) if a < b) or "none")
        texts = read_texts(data, name, slice(half, None, 2))
        groups = {"up to 26 characters": (0, 26), "27 to 160": (27, 160), "longer": (161, sys.maxsize)}
        groups = {
            f"{group} ({n})": limits
            for group, limits in groups.items()
            if (n := sum(limits[0] <= len(text.text) <= limits[1] for text in texts))
        }
        for kind, edit in EDITS.items():
            for strength in strengths:
                rng = random.Random(11)
                edited = [Text(t.id, edit(t.text, strength, rng, vocabulary), "edited") for t in texts]
                found = {(leak.left.id, leak.right.id) for leak in find_leaks(texts, edited)}
                shares = []
                for group, (least, most) in groups.items():
                    hits = [(t.id, t.id) in found for t in texts if least <= len(t.text) <= most]
                    shares.append(f"{group} {sum(hits) / len(hits):7.1%}")
                n_false = len([pair for pair in found - pairs if pair[0] != pair[1]])
                print(f"  {kind:18} {strength:4.0%}: {', '.join(shares)}; false {n_false}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if of the planted leaks others were found than those, else 0."""
    options = _options(argv)
    is_right = options.only == "recall" or _measure_time(options)
    if options.only != "time":
        if options.data.is_dir():
            _measure_recall(options.data, options.half, options.strengths)
        else:
            print(f"no recall: no real data in {options.data}; name its folder with --data")
    return int(not is_right)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks leaks", description="Measure the leak guard.")
    data = Path(os.environ.get("SPRI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--only", choices=("time", "recall"), help="measure one of the two")
    parser.add_argument("--data", type=Path, default=data, help="folder of the real texts")
    parser.add_argument("--half", type=int, choices=(0, 1), default=1, help="0: the half for tuning")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3], help="of edits")
    parser.add_argument("--texts", type=int, default=100_000, help="evaluation texts")
    parser.add_argument("--characters", type=int, default=1_000, help="characters a text")
    parser.add_argument("--seeds", type=int, default=50, help="texts on the earlier side, at least 1")
    parser.add_argument(
        "--preamble", type=int, default=0, help="characters of a preamble that all texts share"
    )
    parser.add_argument("--quotes", type=float, default=0.5, help="share of texts with a curly quote")
    parser.add_argument("--seed", type=int, default=0, help="of the random generator")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
