"""What a transfer tells whoever watches it; watching changes nothing."""

from unionfs.oci.digest import Digest

__all__ = ["Observer"]


class Observer:
    """Hears everything and says nothing; a command overrides what it wants to show."""

    def note(self, text: str) -> None:
        """Hear of one attempt, or why it was not the last: what ``--verbose`` prints."""

    def warn(self, text: str) -> None:
        """Hear of something the user should know although it is not an error."""

    def begin(self, digest: Digest, size: int) -> None:
        """Hear that a blob of *size* bytes is wanted."""

    def at(self, digest: Digest, offset: int) -> None:
        """Hear how many bytes of a blob there are now; fewer than before if it starts anew."""

    def end(self, digest: Digest, how: str) -> None:
        """Hear that a blob is there, and how it came about."""

    def unpacked(self, digest: Digest) -> None:
        """Hear that a layer is a directory now."""
