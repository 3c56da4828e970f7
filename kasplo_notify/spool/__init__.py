"""The spool: a folder of local files where emit keeps events while Redis is away or full.

    <created>-<pid>-<token>.spool           a segment: records, one after another, of one writer
    <created>-<pid>-<token>.spool.broken    a segment in which something was unreadable; all else of it was pushed

A writer appends to a segment of its own and holds its flock meanwhile, so that others leave it alone; the kernel
lets go of the lock when the process dies. Whoever holds the lock of a segment may push its events and unlink it, and
nobody else. `created` is Unix nanoseconds, in 20 digits, so that names sort by age.

``record`` has the format (pure), ``segments`` the folder, ``writer`` appends, ``flusher`` pushes what is there,
``keeper`` is what a notifier sees: it keeps events, and runs the flusher in a thread. ``inventory`` is for operators.
"""
