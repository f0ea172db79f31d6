"""Which token is written when: padding and resets, segments, and the schedule of a call, on the host."""
