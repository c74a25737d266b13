"""Processes, signals, durable files, hardware, memory."""
