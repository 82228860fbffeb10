"""The SECURITY DEFINER functions: everything that the kernel role may do across organizations, each with its reason.

Their SQL is in migrations/; a function that is not listed here is not granted. Each belongs to the owner role, has a
fixed search path, and PUBLIC may not execute it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Definer:
    """`arguments` are the types that identify the function."""

    name: str
    arguments: str
    reason: str

    @property
    def signature(self) -> str:
        return f"{self.name}({self.arguments})"


DEFINERS = (
    Definer(
        "metacore_login", "text", "Before the password is checked nobody knows which organization an e-mail is of."
    ),
    Definer("metacore_refresh", "text", "A refresh token names no organization; its hash must be found in all."),
    Definer("metacore_installed", "", "The registry serves every organization, so it needs who installed what."),
    Definer("metacore_number_events", "integer", "The relay numbers the committed events of every organization."),
    Definer(
        "metacore_events_after", "bigint, integer", "Each kernel process publishes the events of every organization."
    ),
    Definer(
        "metacore_record_violations", "jsonb", "One batch of counted violations is of every organization that had some."
    ),
    Definer(
        "metacore_claim_jobs",
        "text, integer, integer, double precision",
        "A worker takes the jobs of every organization in turn; it finishes each within its organization.",
    ),
    Definer("metacore_renew_jobs", "text, double precision", "Kernels before revision 0006 renew by their name alone."),
    Definer(
        "metacore_renew_jobs", "text, uuid[], double precision", "A worker keeps what it runs, of all organizations."
    ),
    Definer("metacore_next_job", "", "A worker sleeps until the first job of any organization is due."),
    Definer(
        "metacore_wake_subscriptions",
        "text[], uuid[]",
        "The relay's events are of every organization; each wakes its own.",
    ),
    Definer(
        "metacore_sweep_subscriptions", "", "What no event woke is found by comparing counters of all organizations."
    ),
)
