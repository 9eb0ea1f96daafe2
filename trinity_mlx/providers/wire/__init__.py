"""What HTTP providers share: the chat format, failures, limits, thinking tags."""
