"""The kernel's side of a mount: translation between FUSE requests and `unionfs.core.union`, no rule of its own."""
