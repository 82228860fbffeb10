"""Reading manifests: v2 and v3 JSON into one internal model, with every refusal named by its JSON path.

No I/O, no database.
"""
