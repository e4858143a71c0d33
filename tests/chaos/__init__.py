"""Injects faults into a deployment and checks what its clients received."""
