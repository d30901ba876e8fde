"""Made-up examples for the recipes on this shelf, so that they run with no key and no data of anybody's.

    python -m optimize.made_up        writes data/reappraisal.jsonl, data/rubrics.jsonl and data/sft.jsonl anew

Every row is put together by chance from sentences written here, so that there are enough rows to split, and none is
nearly another's copy. They are good for trying the machinery, and for nothing else: no person wrote these posts, and
the "human" scores of the rubrics rows are counts of right facts with some noise.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"

DIMENSIONS = (
    "self-responsibility",
    "problem-focused_coping",
    "attentional_activity",
    "emotion-focused_coping",
    "self-controllable",
    "consistency_with_internal_values",
)

PLACES = (
    "the bakery where I have worked since spring",
    "our allotment club",
    "the night shift at the depot",
    "my sister's flat",
    "the choir that I joined last winter",
    "the school office",
    "a ferry that I crew on",
    "the bicycle workshop behind the station",
    "our street's tool library",
    "the vet's where I answer the telephone",
    "my grandfather's print shop",
    "the swimming hall",
    "a kitchen with two cooks and eighty covers",
    "the evening class in bookkeeping",
)
EVENTS = (
    "I sent the wrong order to three customers and one of them cried on the telephone",
    "my name was read out last when the shifts were given away",
    "the boiler that I had promised to watch went cold with everybody's dough in it",
    "I told a joke about the new driver and he had been standing behind me",
    "the treasurer asked in front of all why the tin was eleven euros short",
    "I dropped the only key into the canal and we stood outside for two hours",
    "they gave the solo to somebody who had missed half of the rehearsals",
    "my application came back with one line and no signature",
    "the dog that I was minding slipped its lead and came back at midnight",
    "I said yes to the extra hours and then forgot my nephew's birthday",
    "the landlord wrote that the rent goes up by a fifth from May",
    "I lost my temper with the apprentice over a jar of screws",
    "the doctor used a word that I had to look up on the bus",
    "my best friend moved away and told me by a photograph",
    "the exam that I learned for all summer was over in nine minutes",
)
FEELINGS = (
    "Since then I wake at four and go through it sentence by sentence.",
    "I cannot look at the calendar without my stomach turning over.",
    "I feel about as large as a thumb.",
    "Half of me is furious, and the other half would like to apologise to the furniture.",
    "I keep typing a message and putting the telephone into the drawer again.",
    "Nobody says a thing, and I would rather be shouted at.",
    "It sits in my chest like a stone that I swallowed.",
    "I have begun to take the back stairs so as not to meet anyone.",
    "I laughed when it happened and have not laughed since.",
    "My hands were steady the whole time, and on the tram they began to shake.",
    "I am so tired of being the person who copes.",
    "What I feel is mostly shame, and a little relief that I am ashamed of as well.",
)
OTHERS = (
    "My brother says that I make a drama of it, and he may be right.",
    "Mrs Adeyemi from upstairs brought soup and did not ask, which was kind and made it worse.",
    "My manager wrote that we would talk on Thursday, with a full stop and no greeting.",
    "The two who were there have agreed on a version in which I do not come off well.",
    "My partner listened for ten minutes and then asked what was for supper.",
    "An old colleague told me that the same thing had happened to her twice.",
    "My mother has it from a neighbour and calls every evening at seven.",
    "The person whom it concerns has not answered, although the ticks are blue.",
    "They all patted my shoulder, one after the other, as if there were a queue.",
    "My flatmate thinks that I should simply move on, whatever that is.",
    "The only one who was fair about it was a twelve-year-old.",
    "Somebody put a drawing of it on the notice board.",
)
ENDINGS = (
    "Tomorrow I have to be back there at six, and I do not know with which face.",
    "I have until Friday to say whether I stay.",
    "I wrote a list of what I could do and burned it in the sink.",
    "Part of me wants to explain it to everyone, and part of me wants to change my name.",
    "There is money for about three weeks, and then there is not.",
    "I do not want advice about breathing.",
    "If I were my own friend I would know what to say, but I am not.",
    "The next meeting is in nine days, and I am counting them.",
    "I keep thinking that a decent person would have noticed earlier.",
    "Perhaps it is small. It does not feel small.",
    "I would like to sleep through a night before I decide anything.",
    "I have told nobody how it really went.",
)

OCCASIONS = (
    "the repair evening", "the harvest supper", "the night walk", "the chess afternoon", "the seed swap",
    "the radio workshop", "the lantern parade", "the jumble sale", "the first-aid course", "the river clean-up",
    "the poetry hour", "the kite Sunday", "the bread oven day", "the star evening",
)  # fmt: skip
WHERE = (
    "the old fire station", "the hall behind the library", "pier number two", "the school kitchen", "the lower meadow",
    "the parish barn", "the empty shop in Mill Lane", "the boathouse", "the courtyard of the museum", "platform nine",
)  # fmt: skip
BRING = (
    "a lamp with spare batteries", "two clean jars", "gloves that may get dirty", "your own cup", "a folding chair",
    "rubber boots", "a pencil and squared paper", "an old towel", "something to share", "a rain jacket",
)  # fmt: skip
WHO = (
    "Mr Okonjo",
    "Frau Lindner",
    "Signora Bassi",
    "Ms Petrov",
    "Old Tomasz",
    "Dr Haddad",
    "Aunt Pilar",
    "Miss Quill",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ASKS = {
    "grounding": (
        "Answer from the note only: what does somebody need to know who wants to come to {what}?",
        "Sum the note up for a neighbour who asks about {what}. Add nothing that it does not say.",
        "Tell me all that the note says about {what}, in plain sentences.",
        "I have lost the note about {what}. What did it say? Keep to it.",
    ),
    "planning": (
        "Write a plan for the day of {what} from the note below, step by step, for the person who opens the door.",
        "From the note, make a list in the right order of what is to be done for {what}.",
        "Plan {what} so that nobody has to ask again. Use the note, and say where each thing happens.",
        "Turn the note about {what} into a plan for two helpers.",
    ),
}

TOPICS = (
    ("why leaves turn yellow in autumn", "the tree takes the green colour back, and the yellow was there all along"),
    ("how a lock on a canal works", "a chamber is filled or emptied until its water is as high as where the boat goes"),
    ("why onions make us cry", "cutting sets a gas free that stings the eye, and tears wash it out"),
    ("how yeast makes dough rise", "it eats sugar and breathes out gas that the dough holds in bubbles"),
    ("what a fuse is for", "it melts before the wires in the wall get hot, and so breaks the circuit"),
    ("why the sea is salt", "rivers carry a little salt into it, and only the water goes up again"),
    ("how a thermos keeps tea hot", "between its two walls there is almost no air that could carry the heat away"),
    ("why we have leap years", "the earth needs nearly six hours more than 365 days to go round the sun"),
    ("how a bill of exchange works", "somebody promises in writing to pay on a day, and the paper can be passed on"),
    ("what compost needs", "green and brown waste in layers, air, water, and time"),
    ("why ice floats", "water takes more room when it freezes, so the same weight is spread wider"),
    ("how to read a tide table", "find the day, then the four times, and mind whether they are given in summer time"),
)  # fmt: skip
READERS = (
    "a child of nine",
    "my grandmother",
    "a new colleague",
    "someone in a hurry",
    "a class of apprentices",
)
SHAPES = (
    "in under {n} words",
    "with one everyday comparison",
    "as {k} short steps",
    "in {k} sentences without a foreign word",
    "and end with a question that checks whether it was understood",
)


def posts(n: int, rng: random.Random) -> list[dict[str, Any]]:
    """Troubled posts, the six dimensions in turn."""
    rows: list[dict[str, Any]] = []
    for i in range(n):
        parts = (
            f"It happened at {rng.choice(PLACES)}: {rng.choice(EVENTS)}.",
            *rng.sample(FEELINGS, 2),
            rng.choice(OTHERS),
            rng.choice(ENDINGS),
        )
        order = [parts[0], *rng.sample(parts[1:4], 3), parts[4]]
        rows.append(
            {"id": f"post-{i + 1}", "dimension": DIMENSIONS[i % len(DIMENSIONS)], "post": " ".join(order)}
        )
    return rows


def instances(n: int, rng: random.Random) -> list[dict[str, Any]]:
    """Notes with a question, a rubric and two answers of different worth each."""
    rows: list[dict[str, Any]] = []
    for i in range(n):
        group = list(ASKS)[i % len(ASKS)]
        what = rng.choice(OCCASIONS)
        facts = {
            "day": f"{what} is on {rng.choice(DAYS)}, {rng.randint(1, 31)} May, at {rng.randint(9, 20)} o'clock",
            "place": f"it takes place at {rng.choice(WHERE)}",
            "price": f"a place costs {rng.randint(2, 19)} euros, children under {rng.randint(5, 14)} pay nothing",
            "bring": f"everybody brings {rng.choice(BRING)}",
            "ask": f"{rng.choice(WHO)} opens at half past and answers questions until {rng.randint(1, 31)} May",
            "limit": f"there is room for {rng.randint(8, 60)}, and a list at the door",
        }
        note = ". ".join(fact[0].upper() + fact[1:] for fact in rng.sample(list(facts.values()), len(facts)))
        answers = [_answer(facts, right, rng) for right in rng.sample(range(1, 7), 2)]
        rows.append(
            {
                "id": f"note-{i + 1}",
                "capability": group,
                "instruction": f"{rng.choice(ASKS[group]).format(what=what)}\n\nNote: {note}.",
                "rubric": _rubric(facts),
                "responses": [{"response_source": str(k), **answer} for k, answer in enumerate(answers, 1)],
            }
        )
    return rows


def _answer(facts: Mapping[str, str], right: int, rng: random.Random) -> dict[str, Any]:
    """An answer with so many right facts, and the score that a careful person might give it."""
    chosen = rng.sample(list(facts), right)
    openings = ("As far as I can see, ", "In short: ", "From the note: ", "You asked, so here it is: ", "")
    said = [facts[name] for name in facts if name in chosen]
    made_up = ("it may well rain", "you can pay by card", "dogs are welcome", "there is parking")
    wrong = [rng.choice(made_up)] if right < 4 else []
    text = rng.choice(openings) + "; ".join([*said, *wrong]) + "."
    noise = rng.choice((-1, 0, 0, 0, 1))
    return {"response": text, "human_score": min(5, max(1, right - 1 + noise + (not wrong)))}


def _rubric(facts: Mapping[str, str]) -> dict[str, str]:
    listed = "; ".join(facts.values())
    return {
        "criteria": f"Does the answer give all that the note says, and nothing else: {listed}?",
        "score1_description": "Gives one of these facts at most, or makes things up.",
        "score2_description": "Gives two or three of them.",
        "score3_description": "Gives four, or more with something made up.",
        "score4_description": "Gives five, with nothing made up.",
        "score5_description": "Gives all six, with nothing made up.",
    }


def instructions(n: int, rng: random.Random) -> list[dict[str, Any]]:
    """Things to explain, with an answer of the data's own."""
    asked: dict[str, str] = {}
    while len(asked) < n:
        topic, why = rng.choice(TOPICS)
        shape = " ".join(rng.sample(SHAPES, 2)).format(n=rng.randint(4, 12) * 10, k=rng.randint(3, 6))
        detail = (
            f"Mention {rng.choice(WHERE)} and {rng.choice(BRING)} in an example from {rng.choice(OCCASIONS)}."
        )
        asked[f"Explain {topic} to {rng.choice(READERS)}, {shape}. {detail}"] = f"Put simply, {why}."
    rows = enumerate(asked.items(), 1)
    return [{"id": f"task-{i}", "instruction": text, "response": reply} for i, (text, reply) in rows]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def main() -> None:
    """Write all three files."""
    made = {
        "reappraisal": posts(84, random.Random(1)),
        "rubrics": instances(64, random.Random(2)),
        "sft": instructions(72, random.Random(3)),
    }
    for name, rows in made.items():
        write(FOLDER / f"{name}.jsonl", rows)
        sys.stdout.write(f"{name}.jsonl: {len(rows)} rows\n")


if __name__ == "__main__":
    main()
