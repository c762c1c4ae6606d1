"""The operators that come with Batchmill. Importing a module here registers its operator."""
