"""Training on the Hugging Face Trainer, and evaluation."""
