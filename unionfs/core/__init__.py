"""The union itself: usable without a mount; knows neither FUSE nor trio.

Start reading at `unionfs.core.lookup` (what is shown) and `unionfs.core.copyup` (what is written);
`unionfs.core.union` is the whole of it behind one method per request.
"""
