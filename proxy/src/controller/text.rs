//! Texts for fields of a limited length.

use std::borrow::Cow;

/// The text, or as much of its head as `limit` bytes hold with an ellipsis.
pub(super) fn truncated(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(limit.saturating_sub('…'.len_utf8()));
    Cow::Owned(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::truncated;

    #[test]
    fn cuts_at_a_character_and_only_what_is_too_long() {
        assert_eq!(truncated("häuser", 7), "häuser");
        assert_eq!(truncated("häuser", 6), "hä…");
        assert_eq!(truncated("häuser", 5), "h…");
        assert_eq!(truncated("", 3), "");
    }
}
