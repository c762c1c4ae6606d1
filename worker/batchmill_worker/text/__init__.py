"""Text and the models that read it: parameters, columns, tokens, and loading; what the text operators share."""
