"""What people point at: IMAGE, IMAGE:/PATH, ARCHIVE:/PATH, CONTAINER, DIRECTORY, MOUNT/PATH.

A name with a path in the file system that exists, and that begins like a path (``/``, ``./``, ``../``) or
ends like an archive, is a file; anything else is asked of the store first. The path in an image
begins with a slash: ``debian:12:/etc/hosts``.
"""

import os
from pathlib import Path

from unionfs.errors import ConfigError, ImageError, NoSuchImage, NoSuchPath
from unionfs.oci.containers import Containers
from unionfs.oci.images import Images
from unionfs.oci.loose import images_in
from unionfs.oci.platforms import parse_platform
from unionfs.oci.view import DirectoryLayer, LayerView, UpperLayer, View, view_of_archive, view_of_image

__all__ = ["layer_of", "only", "physical", "split", "view_of", "view_of_mount"]

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci", ".tar.xz")


def split(text: str) -> tuple[str, bytes]:
    """Split off the path in the image; the root where there is none.

    >>> split("debian:12:/etc/hosts"), split("localhost:5000/x"), split("./a.tar:/")
    (('debian:12', b'/etc/hosts'), ('localhost:5000/x', b'/'), ('./a.tar', b'/'))
    """
    name, colon, path = text.partition(":/")
    return (name, b"/" + os.fsencode(path)) if colon else (text, b"/")


def view_of(text: str, platform: str | None = None) -> View:
    """Return the layers of what *text* names.

    Raises:
        NoSuchImage: nothing is called that.
    """
    path = Path(text)
    if text.startswith(("/", "./", "../")) or (text.endswith(_ARCHIVES) and path.exists()):
        return _view_of_path(path, text, platform)
    try:
        return _view_of_stored(text)
    except NoSuchImage:
        if path.exists():
            return _view_of_path(path, text, platform)
        name, _, inner = text.rpartition(":")
        if _is_stored(name):
            raise NoSuchImage(f"no image {text!r}; if it is a path in {name}, write {name}:/{inner}") from None
        raise


def _is_stored(text: str) -> bool:
    try:
        return bool(_view_of_stored(text))
    except ImageError:
        return False


def view_of_mount(mountpoint: str) -> View | None:
    """Return the layers of the image that is mounted there; None if none of the store's is."""
    images = Images()
    for mount in Containers(images).mounted():
        if mount.mountpoint == mountpoint:
            if mount.container is not None:
                return _view_of_stored(mount.container)
            return view_of_image(images, images.by_manifest(mount.image), mountpoint)
    return None


def _view_of_stored(text: str) -> View:
    images = Images()
    try:
        container = Containers(images).find(text)
    except NoSuchImage:
        return view_of_image(images, images.find(text), text)
    view = view_of_image(images, images.by_manifest(container.image), text)
    view.layers.append(UpperLayer(container.upper, View(text, view.layers)))
    return view


def _view_of_path(path: Path, text: str, platform: str | None) -> View:
    if not path.exists():
        raise NoSuchImage(f"{text}: no such file or directory")
    if path.is_dir() and not (path / "index.json").exists() and not (path / "manifest.json").exists():
        return View(text, [DirectoryLayer(path)], raw=True)
    found = images_in(path, parse_platform(platform) if platform else None)
    if len(found) != 1:
        names = ", ".join(name.familiar for image in found for name in image.names)
        raise ConfigError(f"{text} holds {len(found)} images ({names}); load it, and name one")
    return view_of_archive(found[0], text)


def layer_of(view: View, number: int) -> LayerView:
    """Return a layer by number, 0 at the bottom; negative ones count from the top.

    Raises:
        ConfigError: there are not so many.
    """
    if not -len(view.layers) <= number < len(view.layers):
        raise ConfigError(f"{view.name} has no layer {number}; it has {len(view.layers)}, and 0 is the bottom")
    return view.layers[number]


def only(view: View, number: int | None) -> View:
    """Return the view of one layer alone, or *view* itself for None."""
    return view if number is None else View(view.name, [layer_of(view, number)], raw=True)


def physical(view: View, path: bytes, *, follow: bool = True) -> bytes:
    """Return the clean path at which layers hold what *path* means: symlinks on the way are followed.

    The last component may be missing from the view: something deleted still lies in a layer.
    """
    try:
        return view.merged.resolve(path, follow=follow).entry.path
    except NoSuchPath:
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        try:
            parent = view.merged.resolve(above).entry.path
        except NoSuchPath:
            parent = b"/".join(part for part in above.split(b"/") if part not in {b"", b"."})
        return parent + b"/" + name if parent else name
