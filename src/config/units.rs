//! Sizes, durations and shares as people write them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::cache::MinFree;

/// `100GiB`, `64 KiB`, `1GB`, or plain bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("`{text}` is no size; write it as `512MiB` or `100GiB`")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is no size; write it as `512MiB` or `100GiB`"))
}

/// `500ms`, `60s`, `10m`, `24h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write it as `500ms`, `60s`, `10m`, `24h` or `7d`");
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        "" if number == 0 => Some(0),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

/// A duration for which nothing at all would be no bound but a fault.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it has to be longer than nothing".to_owned()),
        time => Ok(time),
    }
}

/// A number of things, at least one.
pub(super) fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{text}` is no positive number"))
}

/// `10.0.0.0/8`, or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| single()).map_err(|_| format!("`{text}` is no network; write it as `10.0.0.0/8`"))
}

/// `10%`, in thousandths.
pub(super) fn share(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{text}` is no share; write it as `10%`");
    let percent: f64 = text.trim().strip_suffix('%').and_then(|text| text.trim().parse().ok()).ok_or_else(wrong)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((percent * 10.0).round() as u16)
}

/// `5%`, or a size.
pub(super) fn min_free(text: &str) -> Result<MinFree, String> {
    match text.trim().strip_suffix('%') {
        Some(percent) => match percent.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(MinFree::Percent(percent)),
            _ => Err(format!("`{text}` is no share; write it as `5%`")),
        },
        None => size(text).map(MinFree::Bytes),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_what_people_mean_by_them() {
        assert_eq!(size("100GiB"), Ok(100 << 30));
        assert_eq!(size("64 kib"), Ok(64 << 10));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(size("17"), Ok(17));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(min_free("5%"), Ok(MinFree::Percent(5.0)));
        assert_eq!((share("10%"), share("0%"), share("0.5 %"), share("100%")), (Ok(100), Ok(0), Ok(5), Ok(1000)));
        assert_eq!(min_free("10GiB"), Ok(MinFree::Bytes(10 << 30)));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "GiB", "-1", "1.5GiB", "1 parsec", "99999999999999999999", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1w", "99999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["101%", "-1%", "%", "NaN%", "10"] {
            assert!(share(text).is_err(), "{text}");
        }
        for text in ["101%", "-1%", "%", "NaN%"] {
            assert!(min_free(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,20}") {
            let _ = (size(&text), duration(&text), min_free(&text), share(&text));
        }
    }
}
