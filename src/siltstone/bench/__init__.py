"""Benchmarks of speed and size: both sides in one run, in the same dtype; medians of interleaved rounds."""
