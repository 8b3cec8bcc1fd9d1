"""What `evaluate` finds out about a trained run, and how it is written down."""
