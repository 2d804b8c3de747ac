"""Strategies for layers: few names, so that layers collide; every mark a layer can carry.

But no redirects: one at random leads to what has another name too, and of a file with two paths the kernel
makes one inode. Layers with redirects come about by renames and `machine.Machine.new_upper`. And no whiteouts
that are attributes: the kernel does not see a directory as empty that holds nothing else.
"""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from unionfs.testing.literal import (
    ACL_ACCESS,
    ACL_DEFAULT,
    WHITEOUT,
    Dir,
    File,
    HardLink,
    Symlink,
    Tree,
    TreeNode,
    acl,
    capability,
    fifo,
    opaque,
)

__all__ = ["DATA", "METACOPY", "NAMES", "layers", "trees", "without_heirs"]

NAMES = ("a", "b", "c")
DATA: Tree = {"data": {"one": "the first", "two": File(b"", holes={70_000: b"the second"})}}
"""A data-only layer, for the files of other layers that have only their attributes."""

ALLOWED = {ACL_ACCESS: acl("u::rw-,u:7:rw-,g::r--,m::rw-,o::---")}
HEIR = {ACL_DEFAULT: acl("u::rwx,u:1000:rwx,g::r-x,m::rwx,o::---")}
METACOPY = File(size=9, gid=5, xattrs={"trusted.overlay.metacopy": b"", "trusted.overlay.redirect": b"/data/one"})
"""A file that has its data in `DATA`."""

LEAVES: st.SearchStrategy[TreeNode] = st.sampled_from([
    "", "data", File(b"x" * 5000, mode=0o4755), File(b"y", uid=7, xattrs={"user.k": b"v"}), WHITEOUT, Symlink("a"),
    Symlink("../b"), Symlink("none"), fifo(), File(b"", holes={100_000: b"tail"}),
    File(b"able", mode=0o755, uid=1000, xattrs={"security.capability": capability()}),
    File(b"allowed", mode=0o660, xattrs=ALLOWED),
])  # fmt: skip


def _directories(children: st.SearchStrategy[TreeNode]) -> st.SearchStrategy[TreeNode]:
    entries = st.dictionaries(st.sampled_from(NAMES), children, max_size=3)
    return st.one_of(
        entries,
        entries,
        entries,
        entries.map(opaque),
        st.builds(Dir, entries, mode=st.sampled_from([0o700, 0o2775, 0o1777]), gid=st.just(5)),
        st.builds(Dir, entries, mode=st.just(0o777), xattrs=st.just(HEIR)),
    )


def trees() -> st.SearchStrategy[Tree]:
    """Draw what the root of a layer contains."""
    nodes = st.recursive(LEAVES, _directories, max_leaves=6)
    return st.dictionaries(st.sampled_from(NAMES), st.one_of(nodes, _directories(nodes)), max_size=3)


def layers(most: int = 3) -> st.SearchStrategy[list[Tree]]:
    """Draw one to *most* lower layers, top first; the lowest may have hard links."""
    links = st.sampled_from([{}, {"x": File(b"linked"), "y": HardLink("x"), "z": {"w": HardLink("x")}}])
    bottom = st.builds(_both, trees(), links)
    above = st.lists(trees(), max_size=most - 1)
    return st.builds(lambda upper, lowest: [*upper, lowest], above, bottom)


def without_heirs(tree: Tree) -> Tree:
    """Return *tree* with no default ACLs."""
    return {name: _without(node) for name, node in tree.items()}


def _without(node: TreeNode) -> TreeNode:
    if isinstance(node, Dir):
        xattrs = {name: value for name, value in node.xattrs.items() if name != ACL_DEFAULT}
        return replace(node, entries=without_heirs(node.entries), xattrs=xattrs)
    return without_heirs(node) if isinstance(node, Mapping) else node


def _both(tree: Tree, more: Tree) -> Tree:
    return {**tree, **more}
