"""The torture suite: what kill -9, a cut network, a full Redis and hostile subscribers cost, counted exactly.

`python -m tests.torture` runs the scenarios and prints their counts; `docs/guarantees.md` publishes them. What was
emitted and what arrived is written to ledgers outside Redis by processes that no scenario kills; at the end the
ledgers and every key that is left are compared as sets (`checker.py`). The parts:

    ledger.py    the two ledgers, append-only                  checker.py   ledgers and keys -> counts and verdict
    scan.py      every key that is left at the end             arena.py     all of it together, for one scenario
    server.py    a real server that can be killed              proxy.py     the network between it and the others
    slow_sync.c  makes the server's disk sync slowly
    zygote.py    forks workers and producers, so that a kill every half second costs no imports
    unsettled.py what a worker has open, in a file that outlives it: what its death may cost
    producer.py  emits, as a mail engine does                  receiver.py  subscribers, scripted by endpoint
    sabotage.py  test-only: deaths at exact places, clocks that are wrong, faults that the checker must find
    scenarios/   what is done to it
"""
