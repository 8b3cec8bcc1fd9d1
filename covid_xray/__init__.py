"""Fine-tuning a pretrained CNN on chest X-rays. Research only: no medical device."""
