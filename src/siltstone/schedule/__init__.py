"""Which token is written when: padding and resets, segments, and the plan of a call, on the host."""
