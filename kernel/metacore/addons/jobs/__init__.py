"""Work of addons that nobody waits for: rows that some kernel takes, runs and finishes.

What belongs here: taking and finishing jobs, deciding when to try again, schedules, the delivery of events to
subscriptions. What never does: running code (that is a `Runner`), and writing the jobs of an installation.
"""
