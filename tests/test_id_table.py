"""The compact table of ids behaves like a dict, and takes a fraction of its memory."""

import random
import tracemalloc

from spri_dspy.id_table import IdTable


def test_behaves_like_a_dict():
    rng, table, known = random.Random(0), IdTable(), {}
    for _ in range(20_000):
        name = f"e{rng.randrange(6_000)}"
        assert (name in table) == (name in known)
        assert table.get(name, -7) == known.get(name, -7)
        if rng.random() < 0.6:
            table[name] = known[name] = rng.randrange(-(2**40), 2**40)
    assert len(table) == len(known) > 4_000
    assert all(table.get(name) == value for name, value in known.items())
    assert "" not in table and table.get("nobody") == 0


def test_memory_does_not_depend_on_the_length_of_ids():
    tracemalloc.start()
    try:
        table = IdTable()
        for number in range(50_000):
            table[f"{'a long id ' * 20}{number}"] = number
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == 50_000 and held / len(table) < 60
