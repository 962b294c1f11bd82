"""How containers of each kind of runtime reach the agent: one module for each protocol."""
