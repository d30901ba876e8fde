"""What tests of the tables are made of: command lines, rows of data, and runs whose numbers are made by hand."""

import json
from contextlib import contextmanager

from benchmarks import __main__ as benchmarks
from benchmarks import grid, tables
from spri_dspy.records import Record
from spri_dspy.runs import RunDir

STAND_IN = "offline stand-in: not a language model"
LIVE = "hosted_vllm/m?api_base=http://localhost:1/v1"
"""A live LM that is never called: the runs of tables with figures are written by hand."""


def command(capsys, *argv):
    """Exit code, standard output and error of a command line."""
    code = benchmarks.main([str(each) for each in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def planned(definition, path, **asked):
    return tables.plan(definition, grid.Ask(runs=path, **asked))


def planned_live(definition, path, **asked):
    """Cells of live LMs, so that the table shows figures."""
    judges = {"judges": [LIVE]} if definition.judge else {}
    return planned(definition, path, bases=[LIVE], **judges, **asked)


@contextmanager
def writing(cell):
    """The cell's run, for records made by hand."""
    with cell.plan.open(cell.path) as run:
        yield lambda example, **fields: run.append(
            Record(
                example.id,
                dict(example.input_values),
                group=example.group,
                cluster=example.cluster,
                labels=dict(example.label_values),
                **fields,
            )
        )


def judged_by_hand(cell, **numbers):
    """A finished run and its judged run: a number an example for each criterion."""
    with writing(cell) as write:
        for example in cell.examples.values():
            write(example, outputs={"response": "words"})
    cell.judged = cell.path / "judged" / "hand"
    with RunDir.create(cell.judged, {"judge": "reappraisal"}) as run:
        for place, example in enumerate(cell.examples.values()):
            scores = {name: values[place] for name, values in numbers.items()}
            run.append(Record(example.id, {}, {"scores": scores}, group=example.group))


def rated_by_hand(cell, scores):
    """A finished run of the rubrics task with these scores, in the order of the examples."""
    with writing(cell) as write:
        for example, score in zip(cell.examples.values(), scores, strict=True):
            write(example, outputs={"response": {"feedback": "words", "score": score}})


def answers(capability, humans):
    """A row of the rubrics task for every human score."""
    return [
        {
            "id": f"{capability}{n}",
            "capability": capability,
            "instruction": f"Name {n} things to do in {capability}.",
        }
        | {"responses": [{"response_source": "a", "response": f"answer {n}", "human_score": human}]}
        for n, human in enumerate(humans)
    ]
