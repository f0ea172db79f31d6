"""The schedule of a call, computed on the host: padding, resets, segments, and when each token is written."""
