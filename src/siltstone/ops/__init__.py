"""What is computed: functions on tensors, without modules and without configuration."""
