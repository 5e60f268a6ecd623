from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.user import Category, Preferences
from tidings.model.vocabulary import Channel, Reason
from tidings.policy.preferences import refusal

CHANNELS = st.sampled_from(Channel)
NAMES = st.sampled_from(["marketing", "orders", "security"])
PREFERENCES = st.builds(
    Preferences,
    opted_out=st.dictionaries(NAMES | st.just("*"), st.lists(CHANNELS, unique=True).map(tuple)),
    muted=st.booleans(),
)


@given(PREFERENCES, NAMES, CHANNELS)
def test_a_critical_category_is_never_refused(preferences: Preferences, name: str, channel: Channel) -> None:
    assert refusal(preferences, Category(name, critical=True), channel) is None


@given(PREFERENCES, NAMES, CHANNELS)
def test_only_what_was_refused_is_refused(preferences: Preferences, name: str, channel: Channel) -> None:
    refused = {
        (category, each) for category, channels in preferences.opted_out.items() for each in channels or tuple(Channel)
    }
    reason = refusal(preferences, Category(name), channel)
    if preferences.muted:
        assert reason is Reason.MUTED
    elif (name, channel) in refused or ("*", channel) in refused:
        assert reason is Reason.OPTED_OUT
    else:
        assert reason is None


def test_an_opt_out_without_channels_is_of_all_channels() -> None:
    preferences = Preferences(opted_out={"marketing": ()})
    assert all(refusal(preferences, Category("marketing"), channel) for channel in Channel)
    assert not any(refusal(preferences, Category("orders"), channel) for channel in Channel)
