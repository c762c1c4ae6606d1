"""The coordinator: HTTP API, planner, dispatcher, recoverer and finisher."""
