"""A lean decode loop for small models: fixed shapes, a paged static cache, few operations."""
