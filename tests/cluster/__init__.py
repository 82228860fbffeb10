"""A real one-node Kubernetes without Docker, for `make cluster` and for tests.

Here: building its parts, starting and stopping them. Not here: what the tests of the product assert.
"""
