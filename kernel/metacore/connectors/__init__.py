"""Credentials for services outside: sealed at rest, tested on wish, opened only for an addon that may have them."""
