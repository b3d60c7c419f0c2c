"""3x3 convolutions by Winograd's algorithm, compiled for the host's processor."""
