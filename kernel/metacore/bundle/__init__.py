"""The archive that carries an addon: deterministic writing, hardened reading, signing and verifying.

No database, no network.
"""
