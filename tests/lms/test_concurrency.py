"""How many calls are in flight: a window that finds each server's rate by itself, and loses no place on the way."""

import asyncio
import random

import pytest
from dspy.utils.exceptions import LMRateLimitError, LMServerError
from hypothesis import given, settings
from hypothesis import strategies as st

from spri_dspy.errors import UsageError
from spri_dspy.lms.concurrency import FIRST_WINDOW, LONGEST_PAUSE, PAUSE_AFTER, TURN, Limiter, Turn, Window
from spri_dspy.lms.spec import CALL, Call


class QuickLoop(asyncio.SelectorEventLoop):
    """A loop whose clock does not run: when nothing is left to do, it is put to the next timer."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


def quickly(work):
    """What the work returns; work that would wait for ever fails."""
    loop = QuickLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, 1e9))
    finally:
        loop.close()


def clock():
    return asyncio.get_running_loop().time()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(window, count):
    """Take so many places."""
    for _ in range(count):
        await window.enter()


# The window of one LM


def test_window_doubles_every_round_trip_up_to_the_limit():
    async def traffic():
        window, begun = Window(60), {}

        async def call():
            await window.enter()
            begun[clock()] = begun.get(clock(), 0) + 1
            await asyncio.sleep(1)
            window.succeeded()
            window.leave()

        await asyncio.gather(*(call() for _ in range(400)))
        return list(begun.values())

    assert quickly(traffic())[:4] == [FIRST_WINDOW, 2 * FIRST_WINDOW, 60, 60]


def test_window_starts_with_a_part_of_the_limit_and_never_above_it():
    assert [Window(most).limit for most in (1, 5, 16, 64, 256)] == [1, 5, 16, 16, 64]


def test_refusals_of_one_round_trip_halve_the_window_once():
    """As soon as they are many of those in flight."""

    async def traffic():
        window = Window(FIRST_WINDOW)
        began = clock()
        await hold(window, FIRST_WINDOW)
        await asyncio.sleep(1)
        limits = []
        for _ in range(FIRST_WINDOW):
            window.refused(began, None)
            window.leave()
            limits.append(window.limit)
        await asyncio.sleep(1)
        await hold(window, 2)
        window.refused(clock(), None)
        return [*limits, window.limit]

    half = FIRST_WINDOW / 2
    assert quickly(traffic()) == [FIRST_WINDOW] * 4 + [half] * (FIRST_WINDOW - 4) + [half / 2]


def test_window_is_never_closed_altogether():
    async def traffic():
        window = Window(4)
        for _ in range(9):
            await asyncio.sleep(1)
            window.refused(clock(), None)
        await window.enter()
        return window.limit

    assert quickly(traffic()) == 1


def test_window_grows_by_one_a_round_trip_after_a_refusal():
    async def traffic():
        window = Window(64)
        await hold(window, FIRST_WINDOW)
        for _ in range(FIRST_WINDOW):
            window.refused(clock(), None)
            window.leave()
        grown = []
        for _ in range(9):
            for _ in range(int(window.limit)):
                window.succeeded()
            grown.append(window.limit)
        return grown

    found = quickly(traffic())
    assert found[:3] == pytest.approx([9, 10, 11], abs=0.5)
    assert found[-1] < FIRST_WINDOW, "slower near where it was too much"


@pytest.mark.parametrize(
    ("asked", "waited"), [(5.0, 5.0), (LONGEST_PAUSE * 9, LONGEST_PAUSE), (0.0, 0.0), (None, 0.0)]
)
def test_pause_that_a_server_asks_for_holds_everyone_back_up_to_the_cap(asked, waited):
    """Those who come later, and those who wait already: they would all be refused again."""

    async def traffic():
        window, entered = Window(2), []

        async def call():
            await window.enter()
            entered.append(clock())
            await asyncio.sleep(0)
            window.leave()

        await hold(window, 2)
        early = [asyncio.create_task(call()) for _ in range(3)]
        await settle()
        for _ in range(PAUSE_AFTER):
            window.refused(clock(), asked)
        window.leave()
        window.leave()
        late = [asyncio.create_task(call()) for _ in range(3)]
        await asyncio.gather(*early, *late)
        return entered

    assert quickly(traffic()) == [waited] * 6


def test_single_refusals_among_answers_hold_nobody_else_back():
    async def traffic():
        window = Window(4)
        for number in range(40):
            began = await window.enter()
            if number % 5 == 4:
                window.refused(began, 10.0)
            else:
                window.succeeded()
            window.leave()
        return clock(), window.limit

    assert quickly(traffic()) == (0, 4)


def test_longest_of_several_pauses_holds():
    async def traffic():
        window = Window(8)
        await hold(window, 4)
        for _ in range(PAUSE_AFTER):
            window.refused(clock(), 3.0)
            window.leave()
        waiting = asyncio.create_task(window.enter())
        await asyncio.sleep(1)
        window.refused(clock(), 7.0)
        window.refused(clock(), 1.0)
        await waiting
        return clock()

    assert quickly(traffic()) == 8.0


class Served:
    """A server of a latency that bears so many calls at once, so many a second, and turns some away at random."""

    def __init__(self, *, calls=10_000, rate=None, share=0.0, latency=0.05, retry_after=1.0):
        self.calls, self.rate, self.share, self.latency = calls, rate, share, latency
        self.retry_after, self.in_flight, self.due, self.draw = retry_after, 0, 0.0, random.Random(1)

    def refuses(self):
        is_late = bool(self.rate) and self.due > clock() + 0.5
        if is_late or self.in_flight >= self.calls or self.draw.random() < self.share:
            return True
        if self.rate:
            self.due = max(self.due, clock()) + 1 / self.rate
        return False

    async def answer(self):
        self.in_flight += 1
        await asyncio.sleep(self.latency * self.draw.lognormvariate(-0.125, 0.5))
        self.in_flight -= 1


class Fixed(Window):
    """A window that learns nothing."""

    def __init__(self, most):
        super().__init__(most)
        self.limit = float(most)

    def succeeded(self, began=None):
        pass

    def refused(self, began, retry_after):
        pass


def pace(window, server, count=2000):
    """Calls a second."""

    async def call(left):
        while left:
            left.pop()
            while True:
                began = await window.enter()
                if not server.refuses():
                    break
                await asyncio.sleep(0.002)
                window.refused(began, server.retry_after)
                window.leave()
                await asyncio.sleep(server.retry_after)
            await server.answer()
            window.succeeded(began)
            window.leave()

    async def traffic():
        left = [None] * count
        await asyncio.gather(*(call(left) for _ in range(200)))
        return count / clock()

    return quickly(traffic())


@pytest.mark.parametrize(
    ("server", "bears"),
    [
        ({"share": 0.1}, 64),
        ({"share": 0.02}, 64),
        ({"share": 0.2}, 64),
        ({"calls": 32, "share": 0.1}, 32),
        ({"calls": 1}, 1),
        ({"calls": 4}, 4),
        ({"calls": 32}, 32),
        ({"rate": 100}, 6),
        ({"rate": 100, "share": 0.1}, 6),
    ],
)
def test_window_finds_at_least_half_of_what_a_server_bears(server, bears):
    """Whether it refuses at random, bears few calls at once, or few a second."""
    assert pace(Window(64), Served(**server)) > 0.5 * pace(Fixed(bears), Served(**server))


def test_who_waits_longest_gets_in_first():
    async def traffic():
        window, order = Window(1), []

        async def call(name):
            await window.enter()
            order.append(name)
            window.leave()

        await window.enter()
        calls = [asyncio.create_task(call(name)) for name in range(5)]
        await settle()
        calls[2].cancel()
        window.leave()
        await asyncio.gather(*calls, return_exceptions=True)
        return order

    assert quickly(traffic()) == [0, 1, 3, 4]


async def served(window, turns, *, ending=False):
    """The order in which calls of these turns get the window's only place, all of them waiting for it."""
    order = []

    async def call(turn):
        await window.enter(turn)
        order.append(turn.number)
        window.leave()

    await window.enter()
    tasks = [asyncio.create_task(call(turn)) for turn in turns]
    await settle()
    if ending:
        window.end()
    window.leave()
    await asyncio.gather(*tasks)
    return order


STAGES = {3: {"a", "b"}, 1: {"a", "b", "c"}, 2: set(), 4: {"a"}, 5: set()}


def test_oldest_example_goes_first_while_more_come():
    turns = [Turn(number, stages) for number, stages in STAGES.items()]
    assert quickly(served(Window(1), turns)) == [1, 2, 3, 4, 5]


def test_example_with_the_most_before_it_goes_first_at_the_end():
    """Of two that are equally far the one that waits longer does."""
    turns = [Turn(number, stages) for number, stages in STAGES.items()]
    assert quickly(served(Window(1), turns, ending=True)) == [2, 5, 4, 3, 1]


def test_limiter_tells_the_end_to_windows_that_are_there_and_that_come_later():
    limiter = Limiter(1)
    limiter.window("old")
    limiter.end()
    for name in ("old", "new"):
        turns = [Turn(number, stages) for number, stages in STAGES.items()]
        assert quickly(served(limiter.window(name), turns)) == [2, 5, 4, 3, 1]


def test_kinds_of_calls_that_had_a_place_are_remembered():
    async def two_calls():
        turn = Turn(1)
        TURN.set(turn)
        for stage in ("generate", "critique", "generate"):
            CALL.set(Call(stage, "base"))
            async with Limiter(1).slot("lm"):
                pass
        return turn.stages

    assert quickly(two_calls()) == {"generate", "critique"}


class Visitors:
    """Tasks that enter a window and stay until they are told to go."""

    def __init__(self, window):
        self.window, self.waiting, self.inside, self.peak = window, {}, {}, 0

    def come(self):
        leave = asyncio.Event()
        task = asyncio.create_task(self._visit(leave))
        self.waiting[task] = leave

    async def _visit(self, leave):
        await self.window.enter()
        task = asyncio.current_task()
        self.inside[task] = self.waiting.pop(task)
        assert self.window.in_flight <= int(self.window.limit), "let in although it was full"
        try:
            await leave.wait()
        finally:
            del self.inside[task]
            self.window.leave()

    def go(self, which):
        for task in list(self.inside)[which : which + 1]:
            self.inside[task].set()

    def give_up(self, which):
        for task in list(self.waiting)[which : which + 1]:
            del self.waiting[task]
            task.cancel()

    def kill(self, which):
        for task in list(self.inside)[which : which + 1]:
            task.cancel()


one = st.integers(0, 3)
step = st.one_of(
    st.tuples(st.just("come")),
    st.tuples(st.sampled_from(["go", "give_up", "kill"]), one),
    st.tuples(st.just("go, give_up"), one),
    st.tuples(st.just("refused"), st.none() | st.sampled_from([0.5, 3.0])),
    st.tuples(st.just("succeeded")),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 5.0])),
)


@settings(max_examples=300, deadline=None)
@given(most=st.integers(1, 5), steps=st.lists(step, max_size=40))
def test_no_sequence_of_events_leaks_a_place_or_leaves_anyone_outside(most, steps):
    async def live():
        window = Window(most)
        visitors, paused = Visitors(window), 0.0
        for name, *arguments in [*steps, ("pass", 5.0), *[("succeeded",)] * 80]:
            if name == "go, give_up":  # at one moment: who is let in has just left
                visitors.go(*arguments)
                await asyncio.sleep(0)
                visitors.give_up(0)
            elif name == "refused":
                paused = max(paused, clock() + (arguments[0] or 0.0))
                window.refused(clock(), *arguments)
            elif name == "succeeded":
                window.succeeded() if visitors.inside else None
                visitors.go(0)
            elif name == "pass":
                await asyncio.sleep(*arguments)
            else:
                getattr(visitors, name)(*arguments)
            await settle()
            assert window.in_flight == len(visitors.inside)
            assert 1 <= window.limit <= most
            if visitors.waiting and clock() >= paused:
                assert window.in_flight >= int(window.limit), "there is room and somebody waits"
        return window.in_flight, len(visitors.waiting)

    assert quickly(live()) == (0, 0)


# One window for each LM


def ended_with(error, lm="lm", most=32):
    """The window of an LM after one call that ended so."""

    async def traffic():
        limiter = Limiter(most)
        await asyncio.sleep(1)
        try:
            async with limiter.slot(lm):
                await asyncio.sleep(1)
                if error:
                    raise error
        except type(error):
            pass
        return limiter.window(lm), limiter.window("another")

    return quickly(traffic())


REFUSALS = [
    LMRateLimitError("too many", model="m", status=429),
    LMServerError("overloaded", model="m", status=503),
    LMServerError("overloaded", model="m", status=529),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda e: str(e.status))
def test_refusal_closes_the_window_of_its_lm_and_of_no_other(error):
    window, other = ended_with(error)
    assert (window.limit, other.limit) == (FIRST_WINDOW / 2, FIRST_WINDOW)
    assert window.in_flight == 0


@pytest.mark.parametrize(
    "error", [LMServerError("broken", model="m", status=500), ValueError("a bug"), TimeoutError()]
)
def test_failure_that_is_no_refusal_leaves_the_window_as_it_is(error):
    window, _ = ended_with(error)
    assert (window.limit, window.in_flight) == (FIRST_WINDOW, 0)


def test_answer_opens_the_window():
    assert ended_with(None)[0].limit == FIRST_WINDOW + 1


def test_cancelled_call_gives_its_place_back():
    async def traffic():
        limiter = Limiter(1)

        async def call():
            async with limiter.slot("lm"):
                await asyncio.sleep(100)

        task = asyncio.create_task(call())
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with limiter.slot("lm"):
            return limiter.window("lm").in_flight

    assert quickly(traffic()) == 1


def test_call_that_had_its_place_before_a_refusal_says_nothing_new():
    """A busy loop lets it begin a moment later; without this, one burst would close the window twice."""

    async def traffic():
        limiter, loop = Limiter(8), asyncio.get_running_loop()
        window = limiter.window("lm")
        await hold(window, 8)

        async def call():
            async with limiter.slot("lm"):
                raise REFUSALS[0]

        task = asyncio.create_task(call())
        await settle()
        loop.now += 1
        window.leave()
        loop.now += 1
        for _ in range(8):
            window.refused(0.0, None)
        loop.now += 1
        await asyncio.gather(task, return_exceptions=True)
        return window.limit

    assert quickly(traffic()) == 4


@pytest.mark.parametrize("concurrency", [0, -3])
def test_limit_below_one_is_refused(concurrency):
    with pytest.raises(UsageError, match=f"at least 1, not {concurrency}"):
        Limiter(concurrency)
