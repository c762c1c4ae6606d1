"""The lane in a device process: interactive requests, answered at once by the models that are loaded."""
