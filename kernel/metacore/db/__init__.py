"""Engines, pools, roles, row-level security scope and the embedded server.

Knows SQL dialects, never a table's meaning.
"""
