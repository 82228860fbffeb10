"""Thin HTTP: routers, dependencies, the fast lane.

Rules live below; statuses live in errors.py here and nowhere else.
"""
