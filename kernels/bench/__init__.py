"""How the kernels are timed and checked, next to others' and against their bounds."""
