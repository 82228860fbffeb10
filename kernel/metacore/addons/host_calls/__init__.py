"""What guests may ask of the host (contract 12): one module per group of functions, put together for one run at a time.

Every privileged operation is decided by the `Gate` first. How an instance is called lies below, in `metacore.wasm`.
"""
