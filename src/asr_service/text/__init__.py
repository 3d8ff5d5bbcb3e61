"""What happens to tokens and text after the model."""
