"""The endpoints of OpenAI's API: bodies of requests as rows of operators, and results as bodies of answers. Pure."""
