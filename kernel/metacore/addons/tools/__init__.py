"""Tools of addons, which assistants and automations call: what there is, whether parameters fit, and running one."""
