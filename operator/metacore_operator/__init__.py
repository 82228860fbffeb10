"""Keeps installed addons as their `Addon` resources declare them.

The reconcile core knows neither Kubernetes nor folders: those deliver resources to it and store the status it returns.
"""
