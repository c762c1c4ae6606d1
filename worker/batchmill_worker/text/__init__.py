"""What the text operators share: parameters, text columns, tokens, and loading models."""
