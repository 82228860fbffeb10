"""The one way out: requests to other hosts, checked at the address that is really connected to.

Never what is said to them: webhooks, push, guests and the operator bring their own words.
"""
