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

/// More ranges in one request than this are refused. containers/image, the
/// client that asks for most, stops there too.
const MAX_RANGES: usize = 1024;

/// A request names more ranges than anybody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request names more than {MAX_RANGES} ranges; ask for fewer at a time")]
pub struct TooManyRanges;

/// Reads a `Range` header. None at all means "ignore it and send everything":
/// another unit, or what is not a valid set of ranges (RFC 9110 §14.2).
///
/// # Errors
/// [`TooManyRanges`], whatever they are.
pub fn parse_ranges(header: &str) -> Result<Vec<RangeSpec>, TooManyRanges> {
    let Some((unit, set)) = header.split_once('=') else { return Ok(Vec::new()) };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ok(Vec::new());
    }
    // RFC 9110 §5.6.1: empty elements of a list are passed over.
    let elements = || set.split(',').map(str::trim).filter(|element| !element.is_empty());
    if elements().nth(MAX_RANGES).is_some() {
        return Err(TooManyRanges);
    }
    Ok(elements().map(RangeSpec::parse).collect::<Option<_>>().unwrap_or_default())
}

/// The parts of content of `total` bytes that `ranges` ask for, in their order;
/// those that lie outside are left out. Ranges that overlap become one, so that
/// no byte is sent twice. Those that only touch stay apart: clients count the
/// parts.
pub fn resolve_ranges(ranges: &[RangeSpec], total: u64) -> Vec<ByteRange> {
    let mut parts: Vec<ByteRange> = ranges.iter().filter_map(|range| range.resolve(total)).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| parts.get(*at).map_or(u64::MAX, |part| part.start));
    // The part that the ones behind it may overlap with.
    let mut open: Option<usize> = None;
    for at in order {
        let Some(part) = parts.get(at).copied() else { continue };
        match open.and_then(|open| parts.get_mut(open)) {
            Some(earlier) if part.start < earlier.end => {
                earlier.end = earlier.end.max(part.end);
                if let Some(gone) = parts.get_mut(at) {
                    gone.end = gone.start;
                }
            }
            _ => open = Some(at),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

impl RangeSpec {
    /// Reads one range; `None` when it is not a valid one.
    fn parse(range: &str) -> Option<RangeSpec> {
        let (first, last) = range.split_once('-')?;
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
        let [range] = parse_ranges(header).ok()?[..] else { return None };
        range.resolve(total).map(|range| (range.start, range.end))
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
            assert_eq!(parse_ranges(header).unwrap()[0].resolve(10), None, "{header}");
        }
        assert_eq!(parse_ranges("bytes=0-").unwrap()[0].resolve(0), None);
    }

    #[test]
    fn what_is_no_valid_set_of_ranges_is_ignored() {
        for header in
            ["bytes=0-0,x", "bytes=abc", "lines=1-2", "bytes=5-2", "bytes=-", "bytes=+1-2", "bytes=", "bytes=,", "0-1"]
        {
            assert_eq!(parse_ranges(header), Ok(Vec::new()), "{header}");
        }
    }

    #[test]
    fn several_ranges_keep_their_order_and_only_what_overlaps_becomes_one() {
        for (header, expected) in [
            ("bytes=0-0,2-3", vec![(0, 1), (2, 4)]),
            ("bytes=5-6, 0-1 ,,-2", vec![(5, 7), (0, 2), (8, 10)]),
            ("bytes=0-4,5-9", vec![(0, 5), (5, 10)]),
            ("bytes=3-5,0-3,4-7", vec![(0, 8)]),
            ("bytes=0-9,0-9,0-9", vec![(0, 10)]),
            ("bytes=20-30,1-1,-0", vec![(1, 2)]),
            ("bytes=20-30,40-", vec![]),
        ] {
            let parts = resolve_ranges(&parse_ranges(header).unwrap(), 10);
            assert_eq!(parts.iter().map(|part| (part.start, part.end)).collect::<Vec<_>>(), expected, "{header}");
        }
    }

    #[test]
    fn more_ranges_than_the_bound_are_refused() {
        let header = |count: usize| format!("bytes={}", vec!["1-2"; count].join(","));
        assert_eq!(parse_ranges(&header(MAX_RANGES)).map(|ranges| ranges.len()), Ok(MAX_RANGES));
        assert_eq!(parse_ranges(&header(MAX_RANGES + 1)), Err(TooManyRanges));
        assert_eq!(parse_ranges(&format!("bytes={}", ",".repeat(100_000))), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn a_resolved_range_lies_in_the_content(header in "bytes=[0-9]{0,22}-[0-9]{0,22}", total in any::<u64>()) {
            for range in resolve_ranges(&parse_ranges(&header).unwrap(), total) {
                prop_assert!(range.start < range.end && range.end <= total);
            }
        }

        /// No byte is sent twice, and none is left out.
        #[test]
        fn the_parts_are_the_bytes_that_were_asked_for(
            asked in proptest::collection::vec((0_u64..50, proptest::option::of(0_u64..50)), 0..12),
            total in 0_u64..40,
        ) {
            let ranges: Vec<_> = asked.iter().map(|(first, len)| match len {
                Some(len) => RangeSpec::From { first: *first, last: Some(first + len) },
                None => RangeSpec::Suffix(*first),
            }).collect();
            let mut wanted = vec![false; total as usize];
            for part in ranges.iter().filter_map(|range| range.resolve(total)) {
                wanted[part.start as usize..part.end as usize].fill(true);
            }
            let mut sent = vec![false; total as usize];
            for part in resolve_ranges(&ranges, total) {
                for byte in &mut sent[part.start as usize..part.end as usize] {
                    prop_assert!(!std::mem::replace(byte, true));
                }
            }
            prop_assert_eq!(sent, wanted);
        }

        #[test]
        fn no_header_is_too_much(header in "(bytes)?=?[-0-9, bx=]{0,80}") {
            let _ = parse_ranges(&header);
        }
    }
}
