"""Runs for tests of the HTML report, written by hand: answers, judgements, people's scores, hostile texts, a tuning."""

import json
import random

import spri_dspy as spri
from spri_dspy.records import Failure, Record, Round, Usage, Verdict
from spri_dspy.runs import RunDir

LM = "openai/gpt-4o-mini?temperature=0.7"
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'>",
    "<!--<script>",
    "]]></style><svg onload=window.hacked=4>",
    "{{ 7 * 7 }} {% raw %}",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "right \u202eto left\u202c \u2066mixed\u2069 \u200f",
    "' onclick='window.hacked = 5' \" onfocus=\"window.hacked = 6",
    "half a pair \ud83d",
    "javascript:window.hacked=7",
    "\u2028line\u2029ends",
)


def run_of(path, records, **manifest):
    """A run directory of a real LM's name with these records."""
    asked = {"task": "reappraisal", "system": "spri", "lms": {"base": LM}, "models": {"base": LM}, "seed": 0}
    with RunDir.create(path, {**asked, **manifest}) as run:
        for record in records:
            run.append(record)
    return run.path


def judge_run(path, scores, criteria=None, labels=None, lm="openai/gpt-4o", groups=None):
    """A judged run of a run: id -> {criterion: number}."""
    names = criteria or {"alignment": "scale"}
    manifest = {
        "judge": "reappraisal",
        "judge_version": "reappraisal/2",
        "criteria": names,
        "lms": {"judge": lm},
        "models": {"judge": lm},
    }
    folder = path / "judged" / f"reappraisal-{lm.rpartition('/')[2]}"
    with RunDir.create(folder, manifest) as run:
        for name, numbers in scores.items():
            details = {c: {"readings": [{"feedback": f"why {c} of {name}"}]} for c in numbers}
            known = {"human_score": labels[name]} if labels else {}
            group = groups[name] if groups else None
            run.append(Record(name, {}, {"scores": numbers, "details": details}, labels=known, group=group))
    return run.path


def answered(name, number=0, group="north", **more):
    """An example whose response was refined once."""
    trace = (
        Round("principles", f"Name the bridge {name}.", Verdict("Good.", 4)),
        Round("response", f"The old bridge of {name} is closed today.", Verdict(f"Say why, {name}.", 3)),
        Round("response", f"The old bridge of {name} is open today.", Verdict("Clear.", 4)),
    )
    fields = {
        "inputs": {"post": f"Is the bridge {name} open? I cross it every day, number {number}."},
        "outputs": {"principles": trace[0].candidate, "response": trace[2].candidate},
        "stop_reasons": {"principles": "accepted", "response": "accepted"},
        "trace": trace,
        "usage": {"base": Usage(3, 1, 1200, 80), "critic": Usage(3, 0, 900, 60)},
        "seconds": 1.5 + number,
        "group": group,
        "labels": {"standards": "- Says whether it is open."},
    }
    return Record(name, **(fields | more))


def failed(name):
    return Record(
        name,
        {"post": "Is the ferry open?"},
        group="south",
        error="CallError: cannot reach http://10.1.2.3:8000/v1 as own-0123456789",
        failure=Failure("critique_response", 2, "The answer is [RES", ("CallError: host gpu-1:8000",)),
        flags=("truncated:critique_response",),
        seconds=9.0,
    )


def exhausted(name):
    rounds = tuple(Round("response", f"Draft {n} of {name}.", Verdict("Not yet.", 2)) for n in range(4))
    return answered(name, group="south", trace=rounds, stop_reasons={"response": "exhausted"})


def small_run(path, judged=True, shift=0):
    """Eight examples of two groups, one of them failed, one exhausted; the judge's numbers and people's."""
    names = [f"q{n}" for n in range(1, 7)]
    records = [
        answered(name, n, "north" if n % 2 else "south", labels={"human_score": 1 + n % 5})
        for n, name in enumerate(names)
    ]
    run = run_of(
        path, [*records, failed("q7"), exhausted("q8")], input={"file": "posts.jsonl", "examples": 9}
    )
    if judged:
        scores = {
            name: {"alignment": 1 + (n + shift) % 5, "harmful": float(n == 0)} for n, name in enumerate(names)
        }
        labels = {name: 1 + n % 5 for n, name in enumerate(names)}
        groups = {name: "north" if n % 2 else "south" for n, name in enumerate(names)}
        judge_run(run, scores, {"alignment": "scale", "harmful": "share"}, labels, groups=groups)
    return run


def offline_run(path):
    lms = {"base": "offline"}
    run = run_of(path, [answered("q1"), answered("q2")], lms=lms, models=lms)
    judge_run(run, {"q1": {"alignment": 7.25}, "q2": {"alignment": 9.75}}, lm="offline")
    return run


def hostile_run(path):
    """Every hostile text in every place where a text can stand, and a line of a million letters."""
    records = []
    for n, text in enumerate([*HOSTILE, "x" * 1_000_000, "word " * 200_000]):
        trace = (
            Round(f"response{text[:50]}", text, Verdict(text, 3)),
            Round(f"response{text[:50]}", f"{text} more", Verdict(text, 4)),
        )
        records.append(
            Record(
                f"{n} {text[:200]}",
                {"post": text, text[:60]: text},
                {"response": text, "score": {"score": text, "feedback": text}},
                {f"response{text[:50]}": "accepted"},
                trace,
                {text[:40]: Usage(1, 0, 2, 3)},
                1.0,
                text[:100],
                labels={text[:40]: text},
                error=text if n % 3 == 2 else None,
                flags=(f"truncated:{text[:40]}",),
                failure=Failure(text, 1, text, (text,)) if n % 3 == 2 else None,
            )
        )
    one = HOSTILE[1]
    manifest = {
        "task": one,
        "system": HOSTILE[2],
        "lms": {one: one},
        "models": {"base": one},
        "settings": {one: one},
        "leaks": [one],
        "versions": {one: one},
        "input": {"file": one},
    }
    run = run_of(path, records, **manifest)
    judge_run(
        run,
        {record.id: {one: 1 + n % 5} for n, record in enumerate(records)},
        {one: "scale"},
        {record.id: 1 + n % 4 for n, record in enumerate(records)},
        lm=HOSTILE[2],
    )
    (run / "calls.jsonl").write_text(
        json.dumps(
            {"example": records[0].id, "stage": one, "messages": [{"role": one, "content": one}]}
            | {"answer": one, "error": one, "finish_reason": one, "attempt": 1, "seconds": 1}
        )
        + "\n"
    )
    return run


def large_run(path, n, words=60):
    """As many examples as asked, each with texts of its own."""
    rng = random.Random(0)
    vocabulary = [f"word{k}" for k in range(4000)]

    def text():
        return " ".join(rng.choices(vocabulary, k=words))

    def record(number):
        trace = tuple(
            Round(stage, text(), Verdict(text(), score))
            for stage in ("principles", "response")
            for score in (3, 4)
        )
        return answered(
            f"e{number}", number % 7, f"g{number % 5}", inputs={"post": text(), "aim": "See it."}, trace=trace
        )

    return run_of(path, (record(number) for number in range(n)))


def tuning_run(path, offline=False):
    """A tuning that ended with an improvement, or an offline one, as `spri tune` writes them."""
    lms = {"base": "offline" if offline else LM}
    manifest = {"kind": "tuning", "task": "bridges", "system": "seed_search", "lms": lms, "models": lms}
    with RunDir.create(path, manifest):
        pass
    (path / "report.json").write_text(json.dumps(tuning_report()))
    return path


def tuning_report():
    def estimate(value, n):
        return {
            "name": "pearson",
            "value": value,
            "n": n,
            "low": value - 0.1,
            "high": value + 0.1,
            "dropped": 0,
        }

    difference = {"metric": "pearson", "difference": 0.2, "low": 0.05, "high": 0.35, "p": 0.011, "n": 40}
    trials = [
        {
            "name": name,
            "program": f"hash{k}",
            "value": value,
            "low": value - 0.2,
            "high": value + 0.2,
            "n": 20,
        }
        | {"paid": 20 * k}
        for k, (name, value) in enumerate([("start", 0.31), ("seeds 1 2", 0.28), ("seeds 3 4", 0.5321)])
    ]
    old, new, kept = (
        {"group": "north", "post": f"Is the {name} open?", "principles": f"Name the {name}."}
        for name in ("ferry", "lantern", "tower")
    )
    return {
        "metric": "pearson",
        "optimizer": "seed_search",
        "splits": {name: {"examples": 40, "clusters": 40} for name in ("train", "search", "holdout", "test")},
        "decision": {
            "improved": True,
            "reason": "better on rows that the search had not seen (by 0.2, p = 0.011)",
            "start": estimate(0.3, 40),
            "candidate": estimate(0.5, 40),
            "difference": difference,
        },
        "unscorable": {},
        "trials": trials,
        "winner": "hash2",
        "rounds": [],
        "pool": [],
        "changes": {
            "principles.generate": {
                "before": {"instructions": "Write short principles.", "demos": [old, kept]},
                "after": {"instructions": "Write clear principles.", "demos": [new, kept]},
            }
        },
        "test": {"before": estimate(0.29, 40), "after": estimate(0.48, 40), "difference": difference},
        "costs": {"calls": 1234, "input_tokens": 9000, "output_tokens": 800, "usd": 1.5},
        "stopped": None,
    }


def agreement(*judges):
    """What `spri.agree` finds of two made-up judges, or of those named, against two annotators."""
    rows = [
        {
            "id": f"q{n}",
            "group": "ab"[n % 2],
            "score": 1 + (n * n + k) % 5,
            "ann": 1 + n % 5,
            "ben": 1 + (n + n % 3) % 5,
        }
        for k, _ in enumerate(judges or ("near", "far"))
        for n in range(30)
    ]
    named = judges or ("near", "far")
    found = {name: rows[30 * k : 30 * (k + 1)] for k, name in enumerate(named)}
    return spri.agree(found, ["ann", "ben"], settings=spri.AgreeSettings(resamples=50))
