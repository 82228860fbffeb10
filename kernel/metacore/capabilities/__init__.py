"""What addons may do: the one decision about every privileged operation, and the record of those not granted.

Never the operations themselves: rooms above ask here before they act.
"""
