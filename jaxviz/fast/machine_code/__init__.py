"""Machine code for the host's processor, compiled by llvmlite on first use, that XLA calls on several threads."""
