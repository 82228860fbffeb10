"""Names of the NOTIFY channels, and of the epochs that make a lost notification harmless."""

from __future__ import annotations

REGISTRY = "metacore_registry"
"""What is installed changed. Payload: the new registry revision."""

AUTH = "metacore_auth"
"""A user, session or password changed. Payload: the user id, or '' for everybody."""

PERMISSIONS = "metacore_permissions"
"""Grants changed. Payload: the organization id, or '' for all."""

EVENTS = "metacore_events"
"""Events were numbered. Payload: the highest position."""

REQUESTS = "metacore_requests"
"""A tenant's request was written or finished. Payload: the request id."""

JOBS = "metacore_jobs"
"""There is a job to run now. Payload: none."""

MESSAGES = "metacore_messages"
"""A message for users who may be connected to another kernel. Payload: see `ws.fanout`."""

EPOCHS = {AUTH: "auth", PERMISSIONS: "permissions"}
"""The row of metacore_epochs that is raised in the transaction of a NOTIFY on that channel."""
