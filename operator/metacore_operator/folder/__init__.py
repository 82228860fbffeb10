"""Addons declared as YAML files in a folder: what a cluster's API server does, without a cluster.

Reads declarations, keeps uid, generation and status of each beside the data, and hands them to the reconcile.
"""
