"""The only door to the kernel: one function per call, no policy."""
