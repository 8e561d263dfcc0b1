//! Texts for fields of a limited length.

use std::borrow::Cow;

/// The text, or as much of its head as `limit` characters hold with an ellipsis.
pub(super) fn truncated(text: &str, limit: usize) -> Cow<'_, str> {
    let mut ends = text.char_indices().map(|(end, _)| end);
    match (ends.clone().nth(limit), ends.nth(limit.saturating_sub(1))) {
        (Some(_), Some(end)) => Cow::Owned(format!("{}…", &text[..end])),
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::truncated;

    #[test]
    fn cuts_at_a_character_and_only_what_is_too_long() {
        assert_eq!(truncated("häuser", 6), "häuser");
        assert_eq!(truncated("häuser", 5), "häus…");
        assert_eq!(truncated("häuser", 2), "h…");
        assert_eq!(truncated("", 2), "");
    }
}
