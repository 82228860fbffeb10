"""The reconcile: an ordered list of small steps over one Addon, and the ports through which they act.

Each step is one module with `run(context) -> Outcome`. No step writes a status; `conditions` does.
"""
