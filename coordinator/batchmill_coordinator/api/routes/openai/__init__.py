"""Routes of OpenAI's API: each translates a request into rows of a served model, and their results back."""
