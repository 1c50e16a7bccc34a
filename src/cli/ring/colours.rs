//! A colour for each member, the same in the terminal and in SVG.

/// Paul Tol's bright scheme, which colour-blind people can tell apart, and two more.
const FIRST: [(u8, u8, u8); 8] = [
    (0x44, 0x77, 0xaa),
    (0xee, 0x66, 0x77),
    (0x22, 0x88, 0x33),
    (0xcc, 0xbb, 0x44),
    (0x66, 0xcc, 0xee),
    (0xaa, 0x33, 0x77),
    (0xee, 0x77, 0x33),
    (0x00, 0x99, 0x88),
];
/// Degrees between the hues of further members: the golden angle, so that neighbours differ.
const HUE_STEP: usize = 137;

/// The colour of the member with this index.
pub(super) fn colour(index: usize) -> (u8, u8, u8) {
    FIRST.get(index).copied().unwrap_or_else(|| of_hue(index * HUE_STEP % 360))
}

/// The same as `#rrggbb`.
pub(super) fn hex(index: usize) -> String {
    let (red, green, blue) = colour(index);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// A colour of medium brightness on the circle of hues, in degrees.
fn of_hue(hue: usize) -> (u8, u8, u8) {
    const LOW: usize = 0x50;
    const HIGH: usize = 0xd0;
    let rise = |degrees: usize| u8::try_from(LOW + (HIGH - LOW) * degrees / 60).unwrap_or(u8::MAX);
    let (up, down) = (rise(hue % 60), rise(60 - hue % 60));
    let (low, high) = (rise(0), rise(60));
    match hue / 60 {
        0 => (high, up, low),
        1 => (down, high, low),
        2 => (low, high, up),
        3 => (low, down, high),
        4 => (up, low, high),
        _ => (high, low, down),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn members_differ_in_colour() {
        let colours: BTreeSet<_> = (0..100).map(colour).collect();
        assert_eq!(colours.len(), 100);
        assert_eq!(hex(0), "#4477aa");
    }
}
