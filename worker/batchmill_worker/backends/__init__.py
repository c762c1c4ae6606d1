"""What computes the outputs of a loaded model: torch, or OpenVINO with a converted copy of the weights."""
