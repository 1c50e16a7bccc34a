//! The ring in a terminal: braille dots on a circle, each cell in its owner's colour.
//!
//! A character is 2 × 4 dots. Where there are no colours, a cell shows its owner's letter instead of its dots.

use std::f64::consts::TAU;
use std::io::{self, Write};

use crate::cli::options::Palette;
use crate::ring::{Balance, Partition, Preferences};

use super::colours::{colour, places};
use super::source::Known;
use crate::cli::ctl::{by_name, percent};

/// Characters of the drawing, across and down: round, as most terminals' characters are twice as high as wide.
const COLUMNS: usize = 44;
const ROWS: usize = 22;
/// Radii in dots.
const OUTER: f64 = 42.0;
const INNER: f64 = 28.0;
/// Characters of a share's bar at 100 %.
const BAR_CHARACTERS: usize = 40;
/// Stands for members where there are no colours.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Draws the ring, then each member's share.
/// # Errors
/// Those of `out`.
pub(super) fn plot(known: &Known, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    let ring = &known.layout.now;
    let centre = [
        known.cluster_name.clone(),
        format!("layout v{}", known.layout.version),
        format!("{} partitions", ring.q),
        format!("N={} R={} W={}", ring.effective_n(), ring.effective_r(), ring.effective_w()),
    ];
    let places = places(ring);
    for row in 0..ROWS {
        let mut line = String::new();
        let text = (row + 2).checked_sub(ROWS / 2).and_then(|index| centre.get(index));
        let text: Vec<char> = text.map(|text| text.chars().take(24).collect()).unwrap_or_default();
        let text_from = (COLUMNS - text.len()) / 2;
        for column in 0..COLUMNS {
            match column.checked_sub(text_from).and_then(|index| text.get(index)) {
                Some(character) => line.push(*character),
                None => line.push_str(&cell(&known.preferences, &places, palette, column, row)),
            }
        }
        writeln!(out, "  {}", line.trim_end())?;
    }
    shares(known, palette, out)
}

/// One character of the drawing.
fn cell(
    preferences: &Preferences,
    places: &[usize],
    palette: Palette,
    column: usize,
    row: usize,
) -> String {
    let mut dots = 0_u32;
    let mut owner = None;
    for (bit, (x, y)) in BRAILLE.into_iter().enumerate() {
        let found = owner_at(preferences, column * 2 + x, row * 4 + y);
        if found.is_some() {
            dots |= 1 << bit;
            owner = owner.or(found);
        }
    }
    match (owner, palette.enabled()) {
        (None, _) => " ".to_owned(),
        (Some(owner), true) => {
            let braille = char::from_u32(0x2800 + dots).unwrap_or('·').to_string();
            palette.rgb(colour(places[owner]), &braille)
        }
        (Some(owner), false) => letter(places[owner]).to_string(),
    }
}

/// Where each bit of a braille character stands in its cell.
const BRAILLE: [(usize, usize); 8] =
    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)];

/// The member that owns what lies at a dot; `None` off the ring. Partition 0 begins at the top, clockwise.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a drawing: dots are few, the angle lies in 0..1"
)]
fn owner_at(preferences: &Preferences, x: usize, y: usize) -> Option<usize> {
    let across = x as f64 + 0.5 - COLUMNS as f64;
    let down = y as f64 + 0.5 - (ROWS * 2) as f64;
    let radius = across.hypot(down);
    if !(INNER..OUTER).contains(&radius) {
        return None;
    }
    let turn = (across.atan2(-down) / TAU).rem_euclid(1.0);
    let ring = preferences.ring();
    let partition = ((turn * f64::from(ring.q)) as u32).min(ring.q - 1);
    preferences.of_partition(Partition(partition)).indexes().first().copied().map(usize::from)
}

fn letter(place: usize) -> char {
    char::from(LETTERS[place % LETTERS.len()])
}

/// A line a member: its share as first replica and of all replicas.
fn shares(known: &Known, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    let ring = &known.layout.now;
    let balance = Balance::of(&known.preferences);
    let (q, replicas) = (ring.owner.len(), balance.replicas.iter().sum::<usize>());
    let width = ring.members.iter().map(|member| member.name.len()).max().unwrap_or(0);
    writeln!(out)?;
    for (place, (index, member)) in by_name(ring).into_iter().enumerate() {
        let bar = "█".repeat((balance.firsts[index] * BAR_CHARACTERS).div_ceil(q.max(1)));
        let mark = if palette.enabled() { "●".to_owned() } else { letter(place).to_string() };
        writeln!(
            out,
            "  {} {:width$}  first {:>6}  replicas {:>6}  {}",
            palette.rgb(colour(place), &mark),
            member.name,
            percent(balance.firsts[index], q),
            percent(balance.replicas[index], replicas),
            palette.rgb(colour(place), &bar),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(palette: Palette) -> String {
        let mut out = Vec::new();
        plot(&super::super::sample::known(3, 32), palette, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn without_colours_letters_tell_members_apart() {
        let text = drawn(Palette::NONE);
        assert!(!text.contains('\x1b'), "{text}");
        for expected in ["AA", "BB", "CC", "32 partitions", "N=3 R=2 W=2", "  B n2  first  34.4%"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert_eq!(text.lines().count(), ROWS + 1 + 3);
    }

    #[test]
    fn letters_follow_the_names_whatever_the_ids() {
        let known = super::super::sample::named(&["n2", "n10", "n1"], 32);
        let mut out = Vec::new();
        plot(&known, Palette::NONE, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let legend: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once("first").map(|(name, _)| name.trim()))
            .collect();
        assert_eq!(legend, ["A n1", "B n2", "C n10"]);
        // The drawing has the same letters.
        let owner = usize::from(known.layout.now.owner[0]);
        let top =
            cell(&known.preferences, &places(&known.layout.now), Palette::NONE, COLUMNS / 2, 0);
        let shown = format!("{top} {}", known.layout.now.members[owner].name);
        assert!(legend.contains(&shown.as_str()), "{shown}");
    }
}
