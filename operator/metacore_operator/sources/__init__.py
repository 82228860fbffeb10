"""Where bundles come from: one module per kind of source, each fetching bytes and the signature beside them.

Nothing here verifies: whoever fetches must hand the bytes to the verify step.
"""
