//! Sizes, durations, counts and times, as people write and read them.

use std::time::Duration;

/// Parses a size in bytes: `512`, `64KiB`, `1.5GiB`, `10MB`; units are case-insensitive, `K` alone means `KiB`.
/// # Errors
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let malformed = || format!("`{text}` is no size (examples: 512, 64KiB, 1.5GiB)");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(malformed()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"));
    }
    let fraction = number.parse::<f64>().map_err(|_| malformed())?;
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a unit is rounded anyway")]
    let bytes = fraction * factor as f64;
    #[expect(clippy::cast_precision_loss, reason = "the bound need not be exact")]
    if !bytes.is_finite() || bytes >= u64::MAX as f64 {
        return Err(format!("`{text}` is too large"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(bytes.round() as u64)
}

/// Parses a duration: `30s`, `500ms`, `1h 30m`.
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("`{text}` is no duration (examples: 30s, 500ms, 1h): {error}"))
}

/// `18 B`, `1.2 GiB`: three significant digits at most.
pub fn size(bytes: u64) -> String {
    scaled(bytes, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// `812`, `81 k`, `1.2 M`.
pub fn count(number: u64) -> String {
    scaled(number, 1000, &["", " k", " M", " G", " T", " P", " E"])
}

/// `1.9ms`, `94s`, `3m`, `2h`, `5d`: one unit, as short as a table cell wants it.
pub fn duration(span: Duration) -> String {
    let micros = span.as_micros();
    let tenths = |unit: u128, suffix: &str| {
        let whole = micros / unit;
        if whole < 10 {
            format!("{whole}.{}{suffix}", micros * 10 / unit % 10)
        } else {
            format!("{whole}{suffix}")
        }
    };
    match span.as_secs() {
        0 if micros < 1_000 => format!("{micros}us"),
        0 => tenths(1_000, "ms"),
        1..=9 => tenths(1_000_000, "s"),
        seconds @ 10..=119 => format!("{seconds}s"),
        seconds @ 120..=7_199 => format!("{}m", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `1s`, `40s`, `3m`: a span that is not known well, up to whole seconds.
pub fn about(span: Duration) -> String {
    match span.as_millis().div_ceil(1_000) {
        seconds @ 0..120 => format!("{seconds}s"),
        _ => duration(span),
    }
}

/// How long before `now` a moment was: `3m ago`; `just now` under a second or where it lies ahead. Microseconds since
/// the Unix epoch, both.
pub fn ago(then: u64, now: u64) -> String {
    match Duration::from_micros(now.saturating_sub(then)) {
        span if span < Duration::from_secs(1) => "just now".to_owned(),
        span if span < Duration::from_secs(10) => format!("{}s ago", span.as_secs()),
        span => format!("{} ago", duration(span)),
    }
}

/// RFC 3339 with microseconds, in UTC.
pub fn rfc3339(unix_micros: u64) -> String {
    let micros = i64::try_from(unix_micros).unwrap_or(i64::MAX);
    let stamp = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX);
    format!("{stamp:.6}")
}

/// This moment, in microseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "the programs' rim reads the clock")]
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

/// Bytes for a person's eye: text as it stands, control characters and what is no UTF-8 escaped, cut at `limit`
/// characters with an ellipsis.
pub fn bytes(bytes: &[u8], limit: usize) -> String {
    let mut text = String::new();
    let mut characters = 0;
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().chars().map(|c| {
            if c.is_control() || c == '\\' { c.escape_default().to_string() } else { c.to_string() }
        });
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in valid.chain(invalid) {
            if characters == limit {
                text.push('…');
                return text;
            }
            characters += 1;
            text.push_str(&piece);
        }
    }
    text
}

/// Where a text's byte at `at` stands: line and column, both from 1, the column in characters.
pub fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn scaled(number: u64, step: u64, units: &[&str]) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    while value >= step as f64 - 0.5 && unit + 1 < units.len() {
        value /= step as f64;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 {
        format!("{value:.0}{}", units[unit])
    } else {
        format!("{value:.1}{}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_size(text: &str, expected: Result<u64, ()>) {
        assert_eq!(parse_size(text).map_err(drop), expected, "{text}");
    }

    #[test]
    fn sizes_are_read() {
        check_size("0", Ok(0));
        check_size("64MiB", Ok(64 << 20));
        check_size("64 mib", Ok(64 << 20));
        check_size("10k", Ok(10_240));
        check_size("1.5KiB", Ok(1_536));
        check_size("2MB", Ok(2_000_000));
        check_size("", Err(()));
        check_size("-1", Err(()));
        check_size("1.2.3k", Err(()));
        check_size("10 parsecs", Err(()));
        check_size("99999999999999999999", Err(()));
        check_size("18446744073709551615k", Err(()));
    }

    #[test]
    fn sizes_counts_and_spans_are_shown_short() {
        for (bytes, text) in [
            (18, "18 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 << 10, "10 KiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (number, text) in [(812, "812"), (81_000, "81 k"), (1_234_567, "1.2 M")] {
            assert_eq!(count(number), text);
        }
        for (millis, text) in
            [(1, "1s"), (1_000, "1s"), (8_400, "9s"), (40_700, "41s"), (190_000, "3m")]
        {
            assert_eq!(about(Duration::from_millis(millis)), text);
        }
        for (micros, text) in [
            (0, "0us"),
            (1_900, "1.9ms"),
            (20_000, "20ms"),
            (1_500_000, "1.5s"),
            (94_000_000, "94s"),
            (180_000_000, "3m"),
            (3_600_000_000 * 3, "3h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn times_are_rfc_3339_and_relative() {
        assert_eq!(rfc3339(1_795_341_598_123_456), "2026-11-22T09:59:58.123456Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(u64::MAX).len(), "9999-12-31T23:59:59.999999Z".len());
        assert_eq!(ago(0, 180_000_000), "3m ago");
        assert_eq!(ago(5, 0), "just now");
    }

    #[test]
    fn bytes_are_shown_without_harm() {
        assert_eq!(bytes(b"cart:42", 80), "cart:42");
        assert_eq!(bytes(b"a\nb\x1b[31m\\", 80), "a\\nb\\u{1b}[31m\\\\");
        assert_eq!(bytes(b"\xff\x00", 80), "\\xff\\u{0}");
        assert_eq!(bytes("grün und mehr".as_bytes(), 4), "grün…");
    }
}
