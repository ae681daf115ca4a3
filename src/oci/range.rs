//! Byte ranges (RFC 9110 §14).

/// A range as asked, before the length of the content is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// `bytes=first-` or `bytes=first-last` (inclusive).
    From {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, if given.
        last: Option<u64>,
    },
    /// `bytes=-n`: the last `n` bytes.
    Suffix(u64),
}

/// A satisfiable range of content of known length: `start < end <= total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Number of bytes; never zero for a range that [`RangeSpec::resolve`] gave.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the range holds no byte.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl RangeSpec {
    /// Reads a `Range` header. `None` means "ignore it and send everything":
    /// another unit, several ranges (which may be ignored by RFC 9110 §14.2)
    /// and what is no valid range.
    pub fn parse(header: &str) -> Option<RangeSpec> {
        let (unit, set) = header.split_once('=')?;
        let set = set.trim();
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return None;
        }
        let (first, last) = set.split_once('-')?;
        match (first, last) {
            ("", n) => Some(RangeSpec::Suffix(number(n)?)),
            (first, "") => Some(RangeSpec::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(RangeSpec::From { first, last: Some(last) })
            }
        }
    }

    /// The part of content of `total` bytes that is asked for; `None` when
    /// there is no such part (416).
    pub fn resolve(self, total: u64) -> Option<ByteRange> {
        let (start, end) = match self {
            RangeSpec::From { first, last } => (first, last.map_or(total, |last| last.saturating_add(1)).min(total)),
            RangeSpec::Suffix(n) => (total.saturating_sub(n), total),
        };
        (start < end).then_some(ByteRange { start, end })
    }
}

/// Digits only; more than a `u64` holds is "beyond any content".
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(header: &str, total: u64) -> Option<(u64, u64)> {
        RangeSpec::parse(header)?.resolve(total).map(|range| (range.start, range.end))
    }

    #[test]
    fn the_three_forms_are_resolved_against_the_length() {
        assert_eq!(resolved("bytes=0-", 10), Some((0, 10)));
        assert_eq!(resolved("bytes=2-3", 10), Some((2, 4)));
        assert_eq!(resolved("bytes=2-99", 10), Some((2, 10)));
        assert_eq!(resolved("bytes=-3", 10), Some((7, 10)));
        assert_eq!(resolved("bytes=-99", 10), Some((0, 10)));
        assert_eq!(resolved("BYTES = 1-1", 10), Some((1, 2)));
    }

    #[test]
    fn what_has_no_byte_in_the_content_is_unsatisfiable() {
        for header in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=18446744073709551616-"] {
            let spec = RangeSpec::parse(header).unwrap();
            assert_eq!(spec.resolve(10), None, "{header}");
        }
        assert_eq!(RangeSpec::parse("bytes=0-").unwrap().resolve(0), None);
    }

    #[test]
    fn what_is_no_single_valid_range_is_ignored() {
        for header in ["bytes=0-0,2-3", "bytes=abc", "lines=1-2", "bytes=5-2", "bytes=-", "bytes=+1-2", "bytes=", "0-1"]
        {
            assert_eq!(RangeSpec::parse(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_resolved_range_lies_in_the_content(header in "bytes=[0-9]{0,22}-[0-9]{0,22}", total in any::<u64>()) {
            if let Some(range) = RangeSpec::parse(&header).and_then(|spec| spec.resolve(total)) {
                prop_assert!(range.start < range.end && range.end <= total);
            }
        }
    }
}
