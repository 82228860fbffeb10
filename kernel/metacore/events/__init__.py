"""The bus, canonical events and the relay that numbers committed ones.

Never a transport: sockets and webhooks subscribe from above.
"""
