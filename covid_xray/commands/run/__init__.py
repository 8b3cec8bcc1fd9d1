"""One training run: from its configuration to objects, its folder, and its network when it is trained."""
