"""Who the caller is: passwords, sessions, access and refresh tokens.

What a caller may do is the permissions room's.
"""
