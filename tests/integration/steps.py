"""What the steps of the machine are made of: what producers emit, what drains have read, what subscribers answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from kasplo_notify.stored import Progress
from tests.integration.seen import ENDPOINTS, older
from tests.integration.shard import DELAY, HOUR, Item, Read

DRAINS = 2
# The odd millisecond keeps sums of these from being exactly a delay, a lease or the life of a token.
MOMENT, LEASE_AND_DELAY, TOKEN_LIFE, HOURS = 6001, 31_001, 61_001, 2 * HOUR + 1

# What is drawn often stands more than once in these lists.
endpoints = st.sampled_from(ENDPOINTS)
# Which of what there is; counted modulo how much there is, so that the steps do not depend on the state.
which = st.integers(0, 11)
few = st.integers(1, 4)
drains = st.integers(0, DRAINS - 1)
times = st.sampled_from([MOMENT, LEASE_AND_DELAY, LEASE_AND_DELAY, TOKEN_LIFE, HOURS])
OPERATIONS = (
    *("register", "register", "resume", "resume", "resume", "resume", "pause", "remove", "remove"),
    *("replay", "replay", "purge", "fail_for_long", "fail_for_long", "fail_for_long"),
)
# What, to which endpoint, and which of the ways to do it.
operations = st.lists(st.tuples(st.sampled_from(OPERATIONS), endpoints, which), min_size=1, max_size=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event that is emitted: its mail class, recipient, and which of a few ids the caller gives it, if any."""

    mail_class: str
    recipient: int
    own: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Redis goes away in the middle of an emit: at which chunk, and whether that was still applied."""

    chunk: int
    applied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an attempt: `made` is whether there was one."""

    action: str
    made: bool = True
    strike: bool = False
    delay: int = 0
    wait: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What a drain does at a stretch, and what is emitted meanwhile.

    Attributes:
        drain: Which.
        limits: Of its claim: queues, events of each kind, events in all.
        answers: To the first of the events that it has read.
        leaves: Whether it gives its queues back.
        events: What is emitted.
    """

    drain: int
    limits: tuple[int, int, int]
    answers: list[Answer]
    leaves: bool
    events: list[Told]


Breaks = Break | None
breaks = st.sampled_from(
    [None, None, None, *(Break(chunk=chunk, applied=applied) for chunk in (0, 1) for applied in (True, False))]
)
events = st.lists(
    st.builds(
        Told,
        mail_class=st.sampled_from(["promo", "promo", "news", "other"]),
        recipient=st.integers(0, 5),
        own=st.sampled_from([None, None, None, 0, 1, 2, 3, 4]),
    ),
    max_size=4,
)
answers = st.sampled_from(
    [
        *3 * [Answer(action="delivered")],
        *3 * [Answer(action="retry", delay=5000, strike=True)],
        Answer(action="retry", delay=45_000, strike=True),
        Answer(action="retry", delay=3 * HOUR),
        Answer(action="retry", delay=45_000, wait=15_000),
        Answer(action="dead", strike=True),
        Answer(action="dead", made=False),
        Answer(action="pause"),
    ]
)
shifts = st.builds(
    Shift,
    drain=drains,
    limits=st.tuples(few, few, few),
    answers=st.lists(answers, max_size=6),
    leaves=st.booleans(),
    events=events,
)
chosen_outcomes = st.lists(st.tuples(which, answers), min_size=1, max_size=4)


@dataclass(slots=True)
class Drain:
    """A drain: its token, and what it has read and not settled, by queue and ref. After a crash it is a zombie."""

    token: str
    reads: dict[tuple[str, bytes], Read] = field(default_factory=dict)

    def read(self, queue: str, events: Sequence[Read]) -> None:
        self.reads |= {(queue, event.ref): event for event in events}

    def grow_older(self, ms: int) -> None:
        """Entry ids are moments; members of retry sets are not."""
        moved = [
            (queue, replace(each, ref=older(each.ref, ms)) if each.kind == "n" else each)
            for (queue, _), each in self.reads.items()
        ]
        self.reads = {(queue, each.ref): each for queue, each in moved}

    def item(self, queue: str, ref: bytes, answer: Answer) -> Item:
        """What came of one event, which is forgotten by this."""
        read = self.reads.pop((queue, ref))
        before = Progress.unpack(read.ref.split(b"\n")[0]) if read.kind == "r" else Progress(0, 0, read.time + DELAY)
        return Item(
            ref=read.ref,
            queue=queue,
            kind=read.kind,
            action=answer.action,
            progress=replace(before, attempts=before.attempts + answer.made),
            delay=answer.delay,
            strike=answer.strike,
            wait=answer.wait,
            attempt=before.attempts + 1 if answer.made else "",
            event_id=read.id,
        )
