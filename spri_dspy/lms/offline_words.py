"""The vocabulary of the offline stand-in: word lists and sentence frames, all English, data only.

In a frame `{x}` is what is spoken of: "their exams", "the invoice". It never stands first and never governs a
verb, so that one word and several fit alike. Principle frames begin with a bare verb in the imperative.
"""

from __future__ import annotations

import re

STOP = frozenset(
    re.findall(
        r"\w+",
        """
        a able about above absolutely actually after again against ago all almost alone along already also
        although always am an and another any anymore anyone anything anyway apart are around as ask asked
        asking aside at away back basically be became because become been before began being below besides
        between both bring but by call called came can cannot cause come comes coming completely could did
        do does doing done down during each edit either else end ended especially even ever every everyone
        everything exactly fact feel feeling feels felt few find first for found from fuck fucked gave get gets getting
        give given go goes going gone gonna got guess had happen happened happens has hate have having he
        hello help her here hers herself hey him himself his how however i if in inside instead into is it its
        itself just keep kept kind kinda knew know known last least leave left let lets like likely list
        literally little long look looked looking lot lots love made make makes making many may maybe me
        mean means might mind mine more most much must my myself narrator need needed needs neither never
        next no none nor not nothing now of off often ok okay on once one ones only onto or other others
        otherwise our ours out outside over own part people person please pretty probably provide put quite rather
        reader really reason response right said same saw say saying says see seem seems seen sense several
        shall she should since situation so some somehow someone something sometimes somewhat soon sort
        started starting stay still stuff such suddenly sure take taken takes taking tell telling than thank
        thanks that the their them themselves then there these they thing things think thinking this those
        though thought three through thus till time times to today together told tomorrow too took toward
        tried tries truly try trying turn two under until up upon us use used user using usually very via
        want wanted wanting wants was way ways we well went were what whatever when where whether which
        while who whole whom whose why will with within without wont word words would write yes yet you your yours
        yourself
        """,
    )
)
"""Words that say nothing about one input in particular."""

MODIFIERS = frozenset(
    re.findall(
        r"\w+",
        """bad best big biggest better close current damn first fucking good great last main new old own real
        stupid usual worst wrong young""",
    )
)
"""Words that may stand between an article and its noun without being part of what is spoken of."""

OWNERS = dict.fromkeys(re.findall(r"\w+", "the a an his her their its your"), "the")
OWNERS |= {"my": "my", "our": "my"}
"""What may stand in front of a noun: whose it is from then on."""

VAGUE = frozenset(
    re.findall(
        r"\w+",
        "feeling kind lot one ones part people person sense situation sort stuff thing things time times way",
    )
)
"""Nouns that say nothing: the words in front of them are no nouns."""

PLANS: dict[bool, tuple[tuple[str, ...], ...]] = {
    True: (
        (
            "Acknowledge {x} first, before any advice.",
            "Say plainly how heavy it can be to deal with {x}.",
            "Separate what can be changed about {x} from what cannot.",
            "Offer one small step that starts with {x}.",
            "Ask one open question about {x}.",
            "Avoid judging anyone over {x}.",
            "Remind them of what already goes well around {x}.",
        ),
        (
            "Start from {x}, in the words of the person who wrote.",
            "Show that a strong reaction to {x} is understandable.",
            "Look at {x} from one other side.",
            "Name what is within reach where it comes to {x}.",
            "Suggest something to try about {x} this week.",
            "Leave room for doubt about {x}.",
            "Keep {x} in sight to the last line.",
        ),
    ),
    False: (
        (
            "Answer the part about {x} in the first sentence.",
            "Explain {x} with one concrete example.",
            "State the limits that come with {x}.",
            "Check every claim about {x}, and say where it is uncertain.",
            "Keep the steps for {x} in order.",
            "Leave out whatever does not serve {x}.",
            "Return to {x} in the last sentence.",
        ),
        (
            "Name {x} early and say why it matters here.",
            "Use plain words for {x}.",
            "Give {x} a line of its own.",
            "Compare {x} with what was asked.",
            "Show how to check {x}.",
            "Avoid guessing about {x}.",
            "Describe {x} so that a newcomer can follow.",
        ),
    ),
}
"""Sets of principle frames: for a person's own story (True), for a request (False)."""

AIM = "Let every line serve this aim: {x}."
"""The principle for a stated aim."""

NO_TOPIC = ("Answer what was asked and nothing else.", "Say what is missing before guessing at it.")
"""Principles for an input without a single salient word."""

REPLIES: dict[bool, tuple[tuple[str, tuple[str, ...]], ...]] = {
    True: (
        (
            "ask|question|reflect|consider|look|view|side|perspective",
            (
                "What would you say about {x} to a friend with the same story?",
                "If you look at {x} again in a month, what do you hope to see?",
                "Could there be a side to {x} that is hard to see from where you stand?",
            ),
        ),
        (
            "step|suggest|offer|try|plan|encourag|reach",
            (
                "One small step would be to write down what you want from {x}, and then to rest for a day.",
                "You could pick one moment this week for {x} and leave the other days alone.",
                "It may help to talk about {x} with someone you trust.",
            ),
        ),
        (
            "separat|control|respons|chang|remind|judg|doubt|blam",
            (
                "You do not have to carry all of {x} by yourself.",
                "Some of what happened around {x} is not yours to settle, and it helps to know which part.",
                "Be fair to yourself when you think about {x}.",
            ),
        ),
        (
            "",
            (
                "It makes sense that you keep coming back to {x}.",
                "You are right to take {x} seriously.",
                "There is nothing small about {x}.",
                "You have been dealing with {x} for a while, and that is tiring.",
            ),
        ),
    ),
    False: (
        (
            "check|uncertain|limit|avoid|guess|leave out",
            (
                "Be careful with {x}: say only what you can check.",
                "You will want to keep the limits of {x} in sight.",
                "Where you are not certain about {x}, say so.",
            ),
        ),
        (
            "step|order|example|show|describ|explain",
            (
                "Take {x} one step at a time, and write down each result.",
                "As an example, try the simplest form of {x} first.",
                "You can show {x} with a single clear case.",
            ),
        ),
        (
            "",
            (
                "Begin with {x}, since your request turns on it.",
                "Then turn to {x} and keep it short.",
                "Your request also depends on {x}.",
                "Look at {x} once more before you finish.",
            ),
        ),
    ),
}
"""Sentences to a reader, by what a principle wants: the first pattern that occurs in it decides."""

OPENINGS = {
    True: ("Thank you for writing this down.", "I am glad you put this into words."),
    False: ("Here is a way to go about it.", "Here is a short answer."),
}
NO_REPLY = "Please say a little more about what you need."
"""What follows the opening when there is nothing to speak of."""

LADDER = (
    "The response leaves out {all}, or answers something else.",
    "The response touches {one} but leaves out most of what the instruction asks.",
    "The response deals with {one} and part of the rest, with gaps or errors that matter.",
    "The response deals with {all}; small points are thin or imprecise.",
    "The response deals with {all} completely and correctly, and nothing in it is beside the point.",
)
"""Rubric descriptions for scores 1 to 5: {all} names every topic, {one} the first."""
