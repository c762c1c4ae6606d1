"""The built-in operators. Importing a module here registers its operator."""
