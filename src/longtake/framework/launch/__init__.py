"""Launch of ranks: Lightning strategy, processes, environment, interrupts."""
