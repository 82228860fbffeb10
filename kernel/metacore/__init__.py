"""Metacore."""
