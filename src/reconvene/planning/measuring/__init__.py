"""Costs that are measured on this machine or come from a compiler: latency, memory, file size, NPU cycles."""
