"""Turning a verified bundle into schemas, tables and rows: a pure plan, then journaled steps.

Only this room and its callers hold the owner role.
"""
