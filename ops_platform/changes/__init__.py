"""Changes: what was done to the operated stack, told the same way by everything that acts."""
