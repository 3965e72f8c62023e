"""When jobs start by the clock: one schedule a file."""
