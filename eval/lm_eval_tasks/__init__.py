"""The rows of R1's table that lm-eval runs here: one YAML per benchmark, with R1's protocol."""
