"""Depthwise convolutions and their gradients, compiled for the host's processor."""
