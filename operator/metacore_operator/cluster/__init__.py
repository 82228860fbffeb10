"""The reconcile in a Kubernetes cluster: which Addons want it, and what of it the API server is told.

kopf delivers what happens to Addons; nothing here knows kopf. Deciding and installing is `steps`' work.
"""
