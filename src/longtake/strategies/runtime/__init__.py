"""Runtime of strategies: what executes the actions of one rank."""
