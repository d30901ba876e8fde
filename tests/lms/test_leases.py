"""What workers share: never more held together than there is, whoever reports, dies or asks in whatever order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spri_dspy.lms.budget import Budget
from spri_dspy.lms.leases import Treasury, Use, WindowUse, even_shares

STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 30)), max_size=60)


class Holder:
    """A worker: goes up to what it may, keeps what it uses."""

    def __init__(self, number):
        self.number, self.lease, self.in_flight = number, 0, 0
        self.spent = self.ceiling = 0

    def use(self, wanted):
        windows = {"lm": WindowUse(self.lease, self.in_flight, max(wanted, self.in_flight))}
        return Use(windows, {"max_calls": self.spent}, {"max_calls": self.ceiling})

    def take(self, grant):
        self.lease = grant.leases["lm"]
        self.ceiling = max(grant.ceilings["max_calls"], self.spent)

    def work(self, wanted):
        self.in_flight = max(min(wanted, self.lease), min(self.in_flight, wanted))
        self.spent = min(self.ceiling, self.spent + wanted)


def test_each_gets_what_it_wants_or_an_even_share_of_what_the_others_leave():
    assert even_shares(10, {1: 3, 2: 4}) == {1: 3, 2: 4}
    assert even_shares(10, {1: 2, 2: 50, 3: 50}) == {1: 2, 2: 4, 3: 4}
    assert even_shares(5, {1: 9, 2: 9}) == {1: 2, 2: 3}
    assert even_shares(-1, {1: 1}) == {1: 0}


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, total=st.integers(1, 20), limit=st.integers(1, 100))
def test_nothing_is_ever_lent_twice(steps, total, limit):
    budget = Budget(max_calls=limit)
    treasury = Treasury(total, max(1, total // 4), budget)
    holders = {n: Holder(n) for n in range(4)}
    for n in holders:
        treasury.join(n)
    for slot, (place, wanted, more) in enumerate(steps):
        holder = holders[list(holders)[place]]
        if more == 30:  # it dies, another comes in its place; its calls in flight end with it
            treasury.leave(holder.number)
            del holders[holder.number]
            holders[100 + slot] = Holder(100 + slot)
            treasury.join(100 + slot)
            continue
        grant = treasury.grant(holder.number, holder.use(wanted), wanted)
        holder.work(more)  # while the answer is on its way
        holder.take(grant)
        holder.work(wanted)
        assert sum(h.in_flight for h in holders.values()) <= total
        assert sum(h.ceiling for h in holders.values()) <= limit
        assert budget.calls <= limit


def test_worker_with_nothing_to_do_gives_its_slots_to_one_that_waits():
    treasury, holders = Treasury(8, 4, None), (Holder(0), Holder(1))
    for holder in holders:
        treasury.join(holder.number)
    leases = []
    for n_open, wanted in ((9, 9), (0, 0), (0, 0), (0, 0), (0, 0)):
        for holder, n, want in zip(holders, (20, n_open), (20, wanted), strict=True):
            windows = {"lm": WindowUse(holder.lease, holder.in_flight, want)}
            holder.lease = treasury.grant(holder.number, Use(windows, {}, {}), n).leases["lm"]
            holder.in_flight = min(holder.lease, want)
        leases.append([holder.lease for holder in holders])
    assert leases[0] == [4, 4] and leases[-1] == [8, 0], leases


def spend_all(budget, *, refused_every=0):
    """Two workers that call whenever they may, until they hear that it is over: how many calls each began."""
    treasury, holders = Treasury(8, 4, budget), (Holder(0), Holder(1))
    for holder in holders:
        treasury.join(holder.number)
    rounds, over = 0, set()
    while len(over) < 2:
        rounds += 1
        assert rounds < 500, "credits are held by somebody who does not use them"
        for holder in holders:
            grant = treasury.grant(holder.number, holder.use(4), 5)
            holder.take(grant)
            holder.work(3)
            if refused_every and rounds % refused_every == 0:
                holder.spent -= 1
            if grant.exhausted:
                over.add(holder.number)
    return [holder.spent for holder in holders]


def test_budget_of_calls_is_spent_to_the_last_and_not_beyond():
    for limit in (1, 2, 3, 17, 1000):
        budget = Budget(max_calls=limit)
        began = spend_all(budget)
        assert sum(began) == budget.calls == limit
        assert all(began) or limit < 17


def test_dead_workers_lease_counts_as_spent():
    budget = Budget(max_calls=100)
    treasury, holder = Treasury(4, 2, budget), Holder(0)
    for number in (0, 1):
        treasury.join(number)
    holder.take(treasury.grant(0, holder.use(4), 5))
    assert (holder.ceiling, budget.calls) == (8, 0)
    treasury.leave(0)
    assert budget.calls == 8


def test_dollars_are_lent_in_parts_that_never_come_to_more_than_there_is():
    budget = Budget(max_usd=1.0)
    treasury = Treasury(4, 2, budget)
    spent = {0: 0.0, 1: 0.0}
    for number in spent:
        treasury.join(number)
    ceilings = dict(spent)
    for _ in range(200):
        for number in spent:
            use = Use({}, {"max_usd": spent[number]}, {"max_usd": ceilings[number]})
            grant = treasury.grant(number, use, 5)
            ceilings[number] = max(spent[number], grant.ceilings["max_usd"])
            if spent[number] < ceilings[number]:
                spent[number] += 0.004  # a call begins while a part is left, and may cost more than that
    assert grant.exhausted and "the budget of 1.0 dollars is spent" in grant.exhausted
    assert 1.0 <= sum(spent.values()) <= 1.008 + 1e-9
