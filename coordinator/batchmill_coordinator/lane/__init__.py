"""The lane in a coordinator: interactive requests, given to workers that have the model, and their replies."""
