"""Will it fit, and how fast can it be: programs compiled for hardware that is not there."""
