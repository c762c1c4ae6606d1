"""The Lua scripts from Python: the connection that runs them, their declarations, and one typed call for each."""
