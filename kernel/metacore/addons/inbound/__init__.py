"""Webhooks that come in: whose they are, whether they are genuine, and that each delivery is handled once.

What their handlers do is not known here; they run like every other code of addons.
"""
