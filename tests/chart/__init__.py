"""The Helm chart, rendered by helm itself and held to what it promises.

`generate` writes what the chart derives from elsewhere. What needs a running cluster is in tests/cluster.
"""
