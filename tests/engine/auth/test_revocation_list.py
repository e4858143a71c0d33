"""The revocations that an instance knows, compared with a plain list of all that it was told."""

from __future__ import annotations

from dataclasses import replace

from bff.auth.caller import Caller
from bff.auth.revocations import Revocation, RevocationKind, RevocationList, keys_of, parse
from hypothesis import given
from hypothesis import strategies as st

names = st.sampled_from(["", "a", "b"])
times = st.integers(0, 3).map(float)
revocations = st.builds(Revocation, st.sampled_from(RevocationKind), names, times)
callers = st.builds(
    Caller,
    user_id=st.sampled_from(["a", "b"]),
    username=st.just("A"),
    scopes=st.just(frozenset[str]()),
    session_id=names,
    expires_at=st.just(9),
    token_id=names,
    issued_at=times,
)


def is_covered(caller: Caller, one: Revocation) -> bool:
    """Whether this revocation alone covers the caller. An empty id is no id."""
    if one.kind is RevocationKind.USER:
        return one.name == caller.user_id and caller.issued_at <= one.at
    named = caller.session_id if one.kind is RevocationKind.SESSION else caller.token_id
    return one.name == named != ""


@given(told=st.lists(revocations), caller=callers, oldest=times)
def test_a_caller_is_revoked_by_what_is_known_and_not_too_old(
    told: list[Revocation], caller: Caller, oldest: float
) -> None:
    known, latest = RevocationList(), dict[str, Revocation]()
    for one in told:
        is_new = one.key not in latest or latest[one.key].at < one.at
        assert known.add([one]) == ([one] if is_new else [])
        if is_new:
            latest[one.key] = one
    assert known.is_revoked(caller) is any(is_covered(caller, one) for one in latest.values())
    recent = [one for one in latest.values() if one.at >= oldest]
    assert sorted(known.since(oldest)) == sorted(recent)
    assert known.count_since(oldest) == len(recent)
    known.remove_before(oldest)
    assert len(known) == len(recent)
    assert known.is_revoked(caller) is any(is_covered(caller, one) for one in recent)
    in_redis = {one.key: one.at for one in latest.values()}
    assert parse(in_redis | {"x:a": 1.0}) == list(latest.values()), "x: of a newer version"
    for one in told:
        is_asked_for = one.key in keys_of(caller)
        assert is_asked_for is is_covered(replace(caller, issued_at=0), one)
