"""What is decided for all edges of a channel, and why an edge has not what it could have alone."""

from __future__ import annotations

from cwasi_fastpath.edges import decide_all
from cwasi_fastpath.modes import EdgeFacts, Locality, Transport
from cwasi_fastpath.policy import CostPolicy, Costs

HERE, APART = EdgeFacts(Locality.PROCESS), EdgeFacts(Locality.PROCESS, same_trust=False)
POLICY = CostPolicy(Costs(100.0, 0.1, 60.0, 20_000.0, 2_000.0, 0.2))


def test_all_receivers_get_the_same_and_nobody_has_asked_for_it() -> None:
    found = decide_all(POLICY, "lab", {("a", "b"): HERE, ("a", "c"): APART})
    assert {decision.transport for decision in found.values()} == {Transport.PIPE}
    near, apart = (decision.explain() for decision in found.values())
    assert "not ring: all receivers get the same, and not each can have it" in near
    assert "not ring: the functions are in different trust domains and may not share memory" in apart
    for text in (near, apart):
        assert "not tcp: all receivers get the same, and pipe comes first of what each can have" in text
        assert "asked for" not in text and "not redis: no server is configured" in text


def test_what_was_asked_for_is_said_as_such() -> None:
    found = decide_all(POLICY, "lab", {("a", "b"): HERE, ("a", "c"): HERE}, asked=Transport.TCP)
    assert all("not ring: tcp was asked for" in decision.explain() for decision in found.values())


def test_of_one_receiver_each_edge_is_its_own() -> None:
    [decision] = decide_all(POLICY, "lab", {("a", "b"): HERE}).values()
    assert "get the same" not in decision.explain()
