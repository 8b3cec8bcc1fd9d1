"""Networks with named layer groups, and their pretrained weights. Knows nothing of Lightning."""
