"""What people see: progress while tuning, and the result."""
