"""The network to Redis: slow, cut, torn, silent, in pieces. First the producers', then the workers'."""

from dataclasses import replace

from tests.torture.proxy import Harm
from tests.torture.scenario import Outcome, Run, endpoints, lateness, promise, scenario

HARMS = {
    "latency": Harm(latency=0.02),
    "cut": Harm(cut=0.03),
    "tear": Harm(tear=0.03),
    "hole": Harm(hole=0.005),
    "slices": Harm(slices=0.05),
}


@scenario("Whatever the network does to a producer, what emit stores is stored once.")
def producers_network(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena)
        arena.work(2)
        figures = {}
        for name, harm in HARMS.items():
            arena.producers.harm, before = harm, arena.producers.lost
            arena.emit(run.events // len(HARMS), routes, batch=10, rate=2000, processes=4)
            arena.fleet.join("producer", 600)
            figures[f"replies lost by {name}"] = str(arena.producers.lost - before)
            run.say(name)
        arena.until_drained(60)
        findings = arena.audit(promise())
        broken = (f"{findings.unknown} events were not acknowledged",) if findings.unknown else ()
        return Outcome(findings=findings, kills=arena.producers.lost, figures=figures, broken=broken)


@scenario("Whatever the network does to workers, everything arrives.")
def workers_network(run: Run) -> Outcome:
    with run.arena() as arena:
        routes = endpoints(arena)
        arena.work(3)
        figures = {}
        for name, harm in HARMS.items():
            # Their replies are many: one in some hundred.
            arena.workers.harm, before = replace(harm, cut=harm.cut / 5, tear=harm.tear / 5), arena.workers.lost
            arena.emit(run.events // len(HARMS), routes, batch=10, rate=1500, processes=2)
            arena.fleet.join("producer", 600)
            figures[f"replies lost by {name}"] = str(arena.workers.lost - before)
            run.say(name)
        arena.workers.harm = Harm()
        arena.until_drained(60)
        lost = arena.workers.lost
        # A settle is repeated until its reply comes. Several lost in a row may outlast a lease.
        findings = arena.audit(promise(duplicates=lost))
        return Outcome(findings=findings, kills=lost, figures=figures | lateness(findings))
