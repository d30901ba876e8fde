"""A run in batches as a process of its own, which kills itself where it is told to.

`python -m tests.lms.batch_child LM COUNT RUN DIALECT STAGE NTH`: die at the NTH time that STAGE is reached.
"""

import os
import signal
import sys

import spri_dspy as spri
from spri_dspy.durable import write_whole
from spri_dspy.lms.batches import collector, store
from spri_dspy.lms.batches.anthropic_api import AnthropicAPI
from spri_dspy.lms.batches.api import BatchAPI
from spri_dspy.lms.cache import CallCache
from tests.lms.batch_parts import examples, program, settings

STAGES = {
    "enqueue": (store.Spool, "add", "after"),
    "rename": (store.BatchStore, "take", "before"),
    "state": (store.BatchStore, "save", "before"),
    "upload": ("api", "upload", "before"),
    "uploaded": ("api", "upload", "after"),
    "create": ("api", "create", "before"),
    "created": ("api", "create", "after"),
    "status": ("api", "status", "after"),
    "fetch": ("api", "fetch", "before"),
    "line": (store.BatchStore, "_count", "after"),
    "received": (store.BatchStore, "receive", "after"),
    "handing": (collector.Batches, "_hand_out", "before"),
    "put": (CallCache, "put", "before"),
    "stored": (CallCache, "put", "after"),
    "settle": (store.BatchStore, "settle", "before"),
    "settled": (store.BatchStore, "settle", "after"),
    "deleted": ("api", "delete", "after"),
    "record": (spri.RunDir, "append", "after"),
}


def die_at(stage, nth):
    owner, name, when = STAGES[stage]
    left = [nth]

    def count():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for each in (BatchAPI, AnthropicAPI) if owner == "api" else (owner,):
        usual = vars(each).get(name)
        if usual is None:
            continue

        def dying(*args, usual=usual, **kwargs):
            if when == "before":
                count()
            found = usual(*args, **kwargs)
            if when == "after":
                count()
            return found

        setattr(each, name, dying)


def die_in_the_middle_of_a_state(nth):
    left = [nth]

    def half(path, text):
        left[0] -= 1
        if left[0] == 0:
            path.with_name(f"{path.name}.partial").write_text(text[: len(text) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(path, text)

    store.write_whole = half


if __name__ == "__main__":
    lm, count, run, dialect, stage, nth = sys.argv[1:]
    if stage == "half":
        die_in_the_middle_of_a_state(int(nth))
    elif stage != "never":
        die_at(stage, int(nth))
    batch = settings(dialect) if dialect != "live" else None
    most = os.environ.get("MAX_CALLS")
    budget = spri.Budget(max_calls=int(most)) if most else None
    spri.run_bulk(program(lm), examples(int(count)), run, batch=batch, budget=budget)
