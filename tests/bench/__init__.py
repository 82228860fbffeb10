"""Speed as ratios of one run: what we do against the cheapest way to do the same on this machine, interleaved.

Absolute figures mean nothing on another machine; a test never asserts any of them.
"""
