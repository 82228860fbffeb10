"""Installed addons at run time: loading what the registry row says, heartbeats, requests of tenants, frontends."""
