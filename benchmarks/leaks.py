"""How long the leak guard takes: generated texts against a few seeds, with leaks planted among them.

The texts are random words with the frequencies of natural text (the n-th most frequent word is n times
rarer than the first). Every thousandth text is a seed, in turn as it is, with one word replaced, and
followed by as much other text. Making the texts is not counted. It knows nothing of other guards.

    python -m benchmarks leaks [--texts 100000] [--characters 1000] [--seeds 50] [--quotes 0.5]
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate

from spri_dspy.leaks import Text, find_leaks

PLANT_EVERY = 1_000
"""One text in this many is made from a seed."""


class Writer:
    """Writes texts of about `characters` characters; the same `rng` state gives the same texts.

    Args:
        rng: the only source of chance.
        characters: length of a text, up to a word more or less.
        quotes: share of the texts that hold a character outside ASCII, in [0, 1].
    """

    def __init__(self, rng: random.Random, characters: int, quotes: float = 0.0) -> None:
        letters = "etaoinshrdlucmfwypvbg"
        self._rng, self._quotes = rng, quotes
        self._vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(20_000)]
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._vocabulary) + 1)))
        self._n_words = max(1, characters // 6)

    def text(self) -> str:
        """A new text."""
        words = self._rng.choices(self._vocabulary, cum_weights=self._weights, k=self._n_words)
        if self._rng.random() < self._quotes:
            words[0] = f"\u201c{words[0]}\u201d"
        return " ".join(words)

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
    """Evaluation texts, one at a time; `seconds` is the time spent on writing them."""

    def __init__(self, writer: Writer, seeds: Sequence[Text], n: int) -> None:
        self._writer, self._seeds, self._n = writer, seeds, n
        self.seconds = 0.0
        self.planted: set[tuple[str, str]] = set()

    def __iter__(self) -> Iterator[Text]:
        for i in range(self._n):
            start = time.perf_counter()
            plant, rest = divmod(i, PLANT_EVERY)
            seed = self._seeds[plant % len(self._seeds)]
            written = self._writer.text() if rest else self._writer.changed(seed.text, plant)
            text = Text(str(i), written, "evaluation")
            if not rest:
                self.planted.add((seed.id, text.id))
            self.seconds += time.perf_counter() - start
            yield text


def main(argv: Sequence[str] | None = None) -> int:
    """Measure once and print one line; 1 if what was found is not what was planted, else 0."""
    options = _options(argv)
    writer = Writer(random.Random(options.seed), options.characters, options.quotes)
    seeds = [Text(f"seed-{i}", writer.text(), "seeds") for i in range(options.seeds)]
    stream = Stream(writer, seeds, options.texts)
    start = time.perf_counter()
    leaks = find_leaks(seeds, stream)
    seconds = time.perf_counter() - start - stream.seconds
    found = {(leak.left.id, leak.right.id) for leak in leaks}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    print(
        f"{options.texts} texts of {options.characters} characters against {options.seeds} seeds: "
        f"{seconds:.1f} s ({seconds / max(1, options.texts) * 1e6:.0f} microseconds a text), "
        f"peak memory {peak:.0f} MB; planted {len(stream.planted)}, "
        f"missed {len(stream.planted - found)}, false {len(found - stream.planted)}"
    )
    return int(found != stream.planted)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks leaks", description="Time the leak guard.")
    parser.add_argument("--texts", type=int, default=100_000, help="evaluation texts")
    parser.add_argument("--characters", type=int, default=1_000, help="characters a text")
    parser.add_argument("--seeds", type=int, default=50, help="texts on the earlier side, at least 1")
    parser.add_argument("--quotes", type=float, default=0.5, help="share of texts with a curly quote")
    parser.add_argument("--seed", type=int, default=0, help="of the random generator")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
