"""Networks with named layer groups, and their pretrained weights. Nothing here imports Lightning."""
