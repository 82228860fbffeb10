"""The `Addon` resource (group `metacore.dev`, version `v1alpha1`) as typed values.

The custom resource definition is generated from these models. Nothing here reads or decides.
"""
