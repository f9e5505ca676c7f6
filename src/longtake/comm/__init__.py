"""Communication of ranks: communicator, point-to-point channels, watchdog, bandwidth."""
