"""The mode of a release: the wish in its ConfigMap, whether it may come true, and the rollout that makes it so.

Deciding is pure (`decide`); `runner` looks, acts and tells. What must outlive this process stands in an annotation of
the kernel's Deployment, which changes in one patch together with the mode. Addons are none of this room's business.
"""
