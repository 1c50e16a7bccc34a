//! A colour for each member, the same in the terminal and in SVG: by the place of its name, so that the legend begins
//! with the first colour (and letter) whatever ids the members drew.

use crate::cli::ctl::by_name;
use crate::ring::Ring;

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

/// Each member's place among all by name; the ring has them by id.
pub(super) fn places(ring: &Ring) -> Vec<usize> {
    let mut places = vec![0; ring.members.len()];
    for (place, (index, _)) in by_name(ring).into_iter().enumerate() {
        places[index] = place;
    }
    places
}

/// The colour of the member at this place.
pub(super) fn colour(place: usize) -> (u8, u8, u8) {
    FIRST.get(place).copied().unwrap_or_else(|| of_hue(place * HUE_STEP % 360))
}

/// The same as `#rrggbb`.
pub(super) fn hex(place: usize) -> String {
    let (red, green, blue) = colour(place);
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
