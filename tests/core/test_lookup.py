"""The rules of core/lookup.py, one by one, then all at once against a second description of them."""

import os
import stat
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.memory import WHITEOUT, XWHITEOUT, Literal, Memory, Node, Tree, directory, metacopy
from unionfs.core.layer import Place
from unionfs.core.lookup import NOWHERE, Found, Rules, is_shown, search
from unionfs.errors import BadMark, BadRedirect, RefusedMark

UPPER, LOWER, LOWEST = 0, 1, 2


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def walk(roots: list[Place], rules: Rules, path: str) -> Found | None:
    places: Sequence[Place] = roots
    found: Found | None = None
    for name in path.split("/"):
        found = search(places, os.fsencode(name), rules)
        if found is None:
            return None
        places = found.dirs
    return found


def layers(found: Found | None) -> list[int]:
    """The layers that contribute to what was found, top first; an empty list means ENOENT."""
    if found is None:
        return []
    return [found.place.layer.index] if found.place else [place.layer.index for place in found.dirs]


def layers_of(memory: Memory, path: str, *stack: Literal) -> list[int]:
    return layers(walk(*memory.stack(*stack), path))


def test_rule_1_a_whiteout_hides_every_layer_below(memory: Memory) -> None:
    assert layers_of(memory, "a", {"a": WHITEOUT}, {"a": "x"}, {"a": "y"}) == []


def test_rule_1_a_whiteout_below_a_directory_ends_the_search(memory: Memory) -> None:
    assert layers_of(memory, "a", {"a": {}}, {"a": WHITEOUT}, {"a": {}}) == [UPPER]


def test_rule_1_an_attribute_whiteout_counts_where_the_directory_says_that_it_holds_some(memory: Memory) -> None:
    said = {"d": directory({"a": XWHITEOUT}, opaque=b"x")}
    assert layers_of(memory, "d/a", said, {"d": {"a": "x"}}) == []


def test_rule_1_a_file_with_data_is_no_attribute_whiteout(memory: Memory) -> None:
    full = Node(stat.S_IFREG, 1, xattrs=XWHITEOUT.xattrs)
    assert layers_of(memory, "d/a", {"d": directory({"a": full}, opaque=b"x")}, {"d": {"a": "x"}}) == [UPPER]


def test_rule_1_a_device_of_another_number_is_a_file(memory: Memory) -> None:
    found = walk(*memory.stack({"a": Node(stat.S_IFBLK)}, {"a": "x"}), "a")
    assert layers(found) == [UPPER]


def test_rule_2_a_file_ends_the_search(memory: Memory) -> None:
    assert layers_of(memory, "a", {"a": "x"}, {"a": {}}, {"a": "y"}) == [UPPER]


def test_rule_3_a_file_below_a_directory_is_hidden_and_hides(memory: Memory) -> None:
    assert layers_of(memory, "a", {"a": {}}, {"a": "file"}, {"a": {}}) == [UPPER]


def test_rule_3_a_symlink_below_a_directory_is_not_merged(memory: Memory) -> None:
    assert layers_of(memory, "a", {"a": {}}, {"a": Node(stat.S_IFLNK, 3)}, {"a": {}}) == [UPPER]


@pytest.mark.parametrize(
    "mark",
    [directory({}, opaque=b"y"), directory({".wh..wh..opq": ""}), Node(stat.S_IFDIR, xattrs={
        "user.fuseoverlayfs.opaque": b"y"})],
    ids=["kernel", "image tool", "fuse-overlayfs"],
)  # fmt: skip
def test_rule_4_an_opaque_directory_is_the_last_to_contribute(memory: Memory, mark: Node) -> None:
    assert layers_of(memory, "a", {"a": {}}, {"a": mark}, {"a": {}}) == [UPPER, LOWER]


@pytest.mark.parametrize("value", [b"x", b"n", b"", b"yes"])
def test_rule_4_other_values_of_the_mark_hide_nothing(memory: Memory, value: bytes) -> None:
    assert layers_of(memory, "a", {"a": directory({}, opaque=value)}, {"a": {}}) == [UPPER, LOWER]


def test_rule_5_a_relative_redirect_names_a_sibling_in_all_layers_below(memory: Memory) -> None:
    stack: tuple[Literal, ...] = ({"new": directory({}, redirect=b"old")}, {"old": {}, "new": {}}, {"old": {}})
    roots, rules = memory.stack(*stack)
    found = walk(roots, rules, "new")
    assert found is not None
    assert [(place.layer.index, place.name) for place in found.dirs] == [(0, b"new"), (1, b"old"), (2, b"old")]


def test_rule_5_an_absolute_redirect_names_a_path_from_the_root(memory: Memory) -> None:
    stack: tuple[Literal, ...] = ({"x": {"new": directory({}, redirect=b"/a/b")}}, {"x": {}, "a": {"b": {"f": ""}}})
    assert layers_of(memory, "x/new/f", *stack) == [LOWER]


def test_rule_5_an_absolute_redirect_leads_out_of_an_opaque_directory(memory: Memory) -> None:
    stack: tuple[Literal, ...] = (
        {"x": directory({"new": directory({}, redirect=b"/a")}, opaque=b"y")},
        {"a": {"f": ""}, "x": {}},
    )
    assert layers_of(memory, "x/new", *stack) == [UPPER, LOWER]


def test_rule_5_a_redirect_in_a_middle_layer_turns_only_what_is_below_it(memory: Memory) -> None:
    stack: tuple[Literal, ...] = ({"d": {}}, {"d": directory({}, redirect=b"e")}, {"e": {"f": ""}, "d": {"g": ""}})
    assert layers_of(memory, "d/f", *stack) == [LOWEST]
    assert layers_of(memory, "d/g", *stack) == []


def test_rule_5_the_path_of_a_redirect_is_itself_redirected(memory: Memory) -> None:
    stack: tuple[Literal, ...] = (
        {"new": directory({}, redirect=b"/a/b")},
        {"a": directory({}, redirect=b"/z")},
        {"z": {"b": {"f": ""}}, "a": {"b": {"wrong": ""}}},
    )
    assert layers_of(memory, "new/f", *stack) == [LOWEST]
    assert layers_of(memory, "new/wrong", *stack) == []


def test_rule_5_the_path_of_a_redirect_ends_at_a_whiteout_and_at_an_opaque_directory(memory: Memory) -> None:
    lowest = {"a": {"b": {"f": ""}}}
    assert layers_of(memory, "n", {"n": directory({}, redirect=b"/a/b")}, {"a": WHITEOUT}, lowest) == [UPPER]
    opaque = {"a": directory({}, opaque=b"y")}
    assert layers_of(memory, "n", {"n": directory({}, redirect=b"/a/b")}, opaque, lowest) == [UPPER]


@pytest.mark.parametrize("bad", [b"../..", b"a/b", b"/", b"//a", b"/a/../b", b"..", b".", b"", b"/a/", b"a\0b", b"/."])
def test_rule_5_an_invalid_redirect_is_refused(memory: Memory, bad: bytes) -> None:
    stack: tuple[Literal, ...] = ({"d": directory({}, redirect=bad)}, {"d": {}, "a": {}})
    with pytest.raises(BadRedirect, match="Invalid argument"):
        layers_of(memory, "d", *stack)


def test_the_lowest_layer_is_not_asked_for_marks_because_nothing_is_below_it(memory: Memory) -> None:
    lowest: Literal = {"d": directory({}, redirect=b"../x")}
    assert layers_of(memory, "d", {}, lowest) == [LOWER]
    with pytest.raises(BadRedirect):
        layers_of(memory, "d", {}, lowest, {})


def test_rule_5_redirects_are_not_followed_where_the_options_say_so(memory: Memory) -> None:
    stack: tuple[Literal, ...] = ({"new": directory({}, redirect=b"old")}, {"old": {}, "new": {}})
    roots, rules = memory.stack(*stack, follow_redirects=False)
    with pytest.raises(RefusedMark, match="Operation not permitted"):
        walk(roots, rules, "new")


def test_rule_5_redirects_in_a_circle_end(memory: Memory) -> None:
    one = {"a": directory({}, redirect=b"/b"), "b": directory({}, redirect=b"/a")}
    assert layers_of(memory, "a", one, one, one, one) == [0, 1, 2, 3]


def test_rule_6_a_metacopy_file_has_its_data_in_the_first_file_below_that_has_some(memory: Memory) -> None:
    stack: tuple[Literal, ...] = ({"f": metacopy()}, {"f": metacopy()}, {"f": "data"})
    found = walk(*memory.stack(*stack, metacopy=True), "f")
    assert found is not None
    assert layers(found) == [UPPER]
    assert found.data is not None
    assert (found.data[0].layer.index, found.data[1]) == (LOWEST, b"f")


def test_rule_6_the_data_are_looked_for_under_the_name_that_a_redirect_gives(memory: Memory) -> None:
    for redirect, expected in ((b"old", b"old"), (b"/d/old", b"old")):
        stack: tuple[Literal, ...] = ({"d": {"f": metacopy(redirect=redirect)}}, {"d": {"f": "wrong", "old": "data"}})
        found = walk(*memory.stack(*stack, metacopy=True), "d/f")
        assert found is not None
        assert found.data is not None
        assert found.data[1] == expected


def test_rule_6_data_may_be_in_a_layer_that_shows_no_names(memory: Memory) -> None:
    roots, rules = memory.stack({}, {"f": metacopy(redirect=b"/x/y")}, data=({}, {"x": {"y": "data"}}), metacopy=True)
    found = walk(roots, rules, "f")
    assert found is not None
    assert found.data is not None
    assert (found.data[0].layer.index, found.data[1]) == (3, b"y")
    assert walk(roots, rules, "x") is None


@pytest.mark.parametrize("options", [{}, {"metacopy": True}, {"follow_redirects": False}])
def test_rule_6_the_lowest_layer_may_point_to_data_whatever_else_is_followed(
    memory: Memory, options: dict[str, bool]
) -> None:
    roots, rules = memory.stack({}, {"f": metacopy(redirect=b"/x")}, data=({"x": "data"},), **options)
    found = walk(roots, rules, "f")
    assert found is not None
    assert found.data is not None
    assert (found.data[0].layer.index, found.data[1]) == (2, b"x")


def test_rule_6_without_metacopy_nothing_else_leads_to_data(memory: Memory) -> None:
    """A file of the upper layer might be a user's, who says with it that he may read what he may not."""
    pointing = metacopy(redirect=b"/x")
    stacks: list[list[Literal]] = [[{"f": pointing}, {}], [{}, {"f": pointing}, {}], [{"f": metacopy()}, {"f": "low"}]]
    for stack in stacks:
        found = walk(*memory.stack(*stack, data=({"x": "secret", "f": "secret"},)), "f")
        assert found is not None
        assert found.data is None
    relative = walk(*memory.stack({}, {"f": metacopy(redirect=b"f")}, data=({"f": "secret"},)), "f")
    assert relative is not None
    assert relative.data is None


def test_rule_6_an_upper_file_may_not_point_to_data_only_layers(memory: Memory) -> None:
    roots, rules = memory.stack({"f": metacopy(redirect=b"/x")}, {}, data=({"x": "secret"},), metacopy=True)
    with pytest.raises(BadMark):
        walk(roots, rules, "f")


@pytest.mark.parametrize("redirect", [b"/x", b"/x/y", b"/d"])
def test_rule_6_data_that_a_data_only_layer_should_have_may_be_missing(memory: Memory, redirect: bytes) -> None:
    roots, rules = memory.stack({}, {"f": metacopy(redirect=redirect)}, data=({"d": {}},))
    found = walk(roots, rules, "f")
    assert found is not None
    assert found.data is not None
    assert found.data[1] == NOWHERE


def test_rule_5_a_mark_of_the_lowest_layer_on_the_path_of_a_redirect_means_nothing(memory: Memory) -> None:
    upper: Literal = {"n": directory({}, redirect=b"/a/b")}
    lowest: Literal = {"a": directory({"b": {}}, redirect=b"../x")}
    assert layers_of(memory, "n", upper, lowest) == [UPPER, LOWER]


def test_rule_5_an_absolute_redirect_on_the_path_starts_again_at_the_root(memory: Memory) -> None:
    stack: tuple[Literal, ...] = (
        {"n": directory({}, redirect=b"/p/a/b")},
        {"p": {"a": directory({"b": {}}, redirect=b"/z")}},
        {"z": {"b": {}}, "p": {"z": {"b": {"wrong": ""}}}},
    )
    assert layers_of(memory, "n", *stack) == [UPPER, LOWER, LOWEST]
    assert layers_of(memory, "n/wrong", *stack) == []


BELOW: list[Literal] = [{}, {"f": {}}, {"f": WHITEOUT}, {"f": Node(stat.S_IFLNK, 1)}]
LACKING: list[Sequence[Literal]] = [
    *(({"f": metacopy()}, below) for below in BELOW),
    ({}, {"f": metacopy()}),
    ({"f": metacopy()}, {"f": metacopy()}),
]


@pytest.mark.parametrize("stack", LACKING)
def test_rule_6_a_metacopy_file_without_data_is_refused(memory: Memory, stack: Sequence[Literal]) -> None:
    with pytest.raises(BadMark):
        walk(*memory.stack(*stack, metacopy=True), "f")


def test_rule_6_the_mark_is_not_believed_without_the_option(memory: Memory) -> None:
    found = walk(*memory.stack({"f": metacopy()}, {"f": "data"}), "f")
    assert found is not None
    assert found.data is None


def test_rule_7_directories_merge_past_layers_that_have_nothing(memory: Memory) -> None:
    assert layers_of(memory, "a", {"a": {}}, {}, {"a": {}}) == [UPPER, LOWEST]


def test_a_wh_file_deletes_from_the_layers_below_its_own_only(memory: Memory) -> None:
    assert layers_of(memory, "a", {".wh.a": ""}, {"a": "x"}) == []
    assert layers_of(memory, "a", {".wh.a": "", "a": "new"}, {"a": "x"}) == [UPPER]
    assert layers_of(memory, "a", {".wh.a": "", "a": {}}, {"a": {}}) == [UPPER]
    assert layers_of(memory, "a", {}, {".wh.a": ""}, {"a": "x"}) == []


def test_a_wh_file_does_not_delete_what_a_redirect_leads_to(memory: Memory) -> None:
    for redirect in (b"/x/old", b"/old"):
        stack: tuple[Literal, ...] = (
            {".wh.d": "", "d": directory({}, redirect=redirect)},
            {"x": {"old": {}}, "old": {}},
        )
        assert layers_of(memory, "d", *stack) == [UPPER, LOWER]


def test_an_origin_is_read_from_upper_files_of_impure_directories_only(memory: Memory) -> None:
    marked = Node(stat.S_IFREG, 1, xattrs={"trusted.overlay.origin": b"o"})
    for marks, expected in (({"impure": b"y"}, b"o"), ({}, None)):
        found = walk(*memory.stack({"d": directory({"f": marked}, **marks)}, {"d": {}}), "d/f")
        assert found is not None
        assert found.origin == expected


def test_is_shown_asks_what_a_whiteout_would_be_for(memory: Memory) -> None:
    def shown(*stack: Tree) -> bool:
        return is_shown(memory.stack(*stack)[0], b"a")

    assert shown({"a": "x"})
    assert shown({}, {"a": "x"})
    assert not shown({"a": WHITEOUT}, {"a": "x"})
    assert not shown({".wh.a": ""}, {"a": "x"})
    assert not shown({}, {})


# all rules at once

NAMES = ["a", "b"]
FILES: st.SearchStrategy[Literal] = st.sampled_from(["", "x", WHITEOUT, Node(stat.S_IFLNK, 1)])


def directories(children: st.SearchStrategy[Literal]) -> st.SearchStrategy[Literal]:
    names = st.sampled_from([*NAMES, ".wh.a", ".wh.b"])
    entries = st.dictionaries(names, children, max_size=3).map(_wh_files_are_files)
    opaque = st.sampled_from([{}, {}, {"opaque": b"y"}])
    return st.builds(lambda tree, marks: directory(tree, **marks), entries, opaque)


def _wh_files_are_files(tree: dict[str, Literal]) -> Tree:
    return {name: "" if name.startswith(".wh.") else node for name, node in tree.items()}


STACKS = st.lists(
    st.dictionaries(st.sampled_from([*NAMES, ".wh.a", ".wh.b"]), st.recursive(FILES, directories, max_leaves=6)).map(
        _wh_files_are_files
    ),
    min_size=1,
    max_size=4,
)


def model(stack: list[Tree], path: list[str]) -> list[int]:
    """What contributes to *path*: the layers from the bottom up, each replacing or joining what is below it."""
    shown: list[tuple[int, Node]] = []
    for index, tree in reversed(list(enumerate(stack))):
        mentioned = _mentioned(directory(tree), path)
        if mentioned == "nothing":
            continue
        if isinstance(mentioned, str):
            shown = []
            continue
        node, is_cut = mentioned
        joins = stat.S_ISDIR(node.mode) and not is_cut and shown and stat.S_ISDIR(shown[0][1].mode)
        shown = [(index, node), *(shown if joins else [])]
    return [index for index, _ in shown]


def _mentioned(tree: Node, path: list[str]) -> tuple[Node, bool] | str:
    """What one layer says of *path*: a node, and whether it hides the layers below; "deleted"; or "nothing"."""
    node, is_cut = tree, False
    for part in path:
        if not stat.S_ISDIR(node.mode):
            return "deleted"
        opaque = "trusted.overlay.opaque" in node.xattrs
        is_cut = is_cut or opaque or f".wh.{part}" in node.entries
        found = node.entries.get(part)
        if found is None:
            return "deleted" if is_cut else "nothing"
        if isinstance(found, str):
            found = Node(stat.S_IFREG, len(found))
        if not isinstance(found, Node):
            found = directory(found)
        if found is WHITEOUT:
            return "deleted"
        node = found
    return node, is_cut or "trusted.overlay.opaque" in node.xattrs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STACKS, st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
def test_the_rules_say_what_building_the_view_from_the_bottom_up_says(
    memory: Memory, stack: list[Tree], path: list[str]
) -> None:
    assert layers_of(memory, "/".join(path), *stack) == model(stack, path)
