"""What happens around the training step: one short file each."""
