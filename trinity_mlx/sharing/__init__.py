"""What several users hold at once: values on lease, and threads that own what they run."""
