"""Windows over rows with an event time: rules, aggregates and the step function. Pure."""
