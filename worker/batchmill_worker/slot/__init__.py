"""One device process: from the message to the commit."""
