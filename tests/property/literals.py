"""Strategies for layers: few names, so that layers collide; every mark a layer can carry.

But no redirects: one at random leads to what has another name too, and of a file with two paths the kernel
makes one inode. Layers with redirects come about by renames and `machine.Machine.new_upper`. And whiteouts
that are attributes only where they count: elsewhere the kernel finds them or not, depending on what it saw
before.
"""

from hypothesis import strategies as st

from unionfs.testing.literal import (
    WHITEOUT,
    XWHITEOUT,
    Dir,
    File,
    HardLink,
    Symlink,
    Tree,
    TreeNode,
    fifo,
    opaque,
    xwhiteouts,
)

__all__ = ["NAMES", "layers", "trees"]

NAMES = ("a", "b", "c")

LEAVES: st.SearchStrategy[TreeNode] = st.sampled_from([
    "", "data", File(b"x" * 5000, mode=0o4755), File(b"y", uid=7, xattrs={"user.k": b"v"}), WHITEOUT, Symlink("a"),
    Symlink("../b"), Symlink("none"), fifo(), File(b"", holes={100_000: b"tail"}),
])  # fmt: skip


def _directories(children: st.SearchStrategy[TreeNode]) -> st.SearchStrategy[TreeNode]:
    entries = st.dictionaries(st.sampled_from(NAMES), children, max_size=3)
    return st.one_of(
        entries,
        entries,
        entries,
        entries.map(opaque),
        st.builds(Dir, entries, mode=st.sampled_from([0o700, 0o2775, 0o1777]), gid=st.just(5)),
    )


def trees() -> st.SearchStrategy[Tree]:
    """Draw what the root of a layer contains."""
    nodes = st.recursive(LEAVES, _directories, max_leaves=6)
    return st.dictionaries(st.sampled_from(NAMES), st.one_of(nodes, _directories(nodes)), max_size=3)


def layers(most: int = 3) -> st.SearchStrategy[list[Tree]]:
    """Draw one to *most* lower layers, top first.

    The lowest may have hard links, the topmost whiteouts of the other kind.
    """
    links = st.sampled_from([{}, {"x": File(b"linked"), "y": HardLink("x"), "z": {"w": HardLink("x")}}])
    bottom = st.builds(_both, trees(), links).map(lambda tree: {**tree, "q": {"a": "1", "b": {"c": "2"}, "c": "3"}})
    other_whiteouts: Tree = {"q": xwhiteouts({"a": XWHITEOUT, "b": XWHITEOUT})}
    top = st.builds(_both, trees(), st.sampled_from([{}, other_whiteouts]))
    between = st.lists(trees(), max_size=most - 2)
    return st.one_of(st.builds(lambda a, b, c: [a, *b, c], top, between, bottom), st.builds(lambda c: [c], bottom))


def _both(tree: Tree, more: Tree) -> Tree:
    return {**tree, **more}
