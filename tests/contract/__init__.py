"""What every combination of memory, cache, segments and window must do: the package against the oracle, in float64."""
