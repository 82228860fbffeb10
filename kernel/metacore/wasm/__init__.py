"""Addon code in the engine: compiling, caching, scanning, calling guests under limits, and the seam of host functions.

What a host function does to data belongs to the rooms that implement `ports.HostServices`; who may, to the enforcer.
"""
