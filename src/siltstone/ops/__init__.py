"""The computations: functions on tensors, without modules and without configuration."""
