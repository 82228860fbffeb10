"""What a caller may do: capabilities, the stores that grant them, and the cached check."""
