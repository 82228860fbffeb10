"""How each kind of handler is run: WASM exports, functions of the host, calls to backends. One module a kind.

Who may run what, and what is counted and logged of it, is decided before, in `metacore.addons.runner`.
"""
