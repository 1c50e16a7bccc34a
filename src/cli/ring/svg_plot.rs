//! The ring as SVG: an arc for each run of partitions of one owner, and each member's share beside it.

use std::f64::consts::TAU;
use std::fmt::{self, Write};

use crate::ring::Balance;

use super::colours::{hex, places};
use super::source::Known;
use crate::cli::ctl::{by_name, percent};

/// Centre and radii of the ring.
const CENTRE: f64 = 330.0;
const OUTER: f64 = 250.0;
const INNER: f64 = 165.0;
/// The legend's left edge, its first line, and the distance of its lines.
const LEGEND_LEFT: f64 = 680.0;
const LEGEND_TOP: f64 = 150.0;
const LEGEND_STEP: f64 = 58.0;
/// Length of a bar that stands for the largest share.
const BAR_LENGTH: f64 = 260.0;
const WIDTH: f64 = 1_120.0;
const HEIGHT_MIN: f64 = 660.0;

/// Colours follow the reader's light or dark theme.
const STYLE: &str = "\
  svg { background: #fff; font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
  text { fill: #1c2733; } .quiet { fill: #66727f; } .tick { stroke: #9aa5b1; } .track { fill: #e8ecf0; }
  @media (prefers-color-scheme: dark) {
    svg { background: #12171d; } text { fill: #e6ebf0; } .quiet { fill: #8d99a6; } .track { fill: #26303a; }
  }
";

/// Partitions in a row whose first replica is one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    owner: u16,
    from: u32,
    to: u32,
}

/// The drawing.
pub(super) fn svg(known: &Known) -> String {
    let mut text = String::new();
    // A `String` takes all that is written to it.
    let _ = draw(known, &mut text);
    text
}

fn draw(known: &Known, out: &mut String) -> fmt::Result {
    let ring = &known.layout.now;
    #[expect(clippy::cast_precision_loss, reason = "members are few")]
    let legend = LEGEND_TOP + LEGEND_STEP * ring.members.len() as f64 + 60.0;
    let height = legend.max(HEIGHT_MIN);
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="title">"#
    )?;
    let name = escaped(&known.cluster_name);
    writeln!(
        out,
        r#"<title id="title">Ring of cluster {name}, layout {}</title>"#,
        known.layout.version
    )?;
    writeln!(out, "<style>\n{STYLE}</style>")?;
    writeln!(out, r#"<g id="ring" stroke="none">"#)?;
    let places = places(ring);
    for run in runs(&ring.owner) {
        let owner = usize::from(run.owner);
        arc(out, run, ring.q, &hex(places[owner]), &escaped(&ring.members[owner].name))?;
    }
    writeln!(out, "</g>")?;
    ticks(out)?;
    centre(known, out)?;
    members(known, out)?;
    writeln!(out, "</svg>")
}

/// The ring's partitions, joined where neighbours have one owner; partition 0 always begins a run.
fn runs(owner: &[u16]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (partition, owner) in (0_u32..).zip(owner) {
        match runs.last_mut() {
            Some(run) if run.owner == *owner => run.to = partition + 1,
            Some(_) | None => runs.push(Run { owner: *owner, from: partition, to: partition + 1 }),
        }
    }
    runs
}

fn arc(out: &mut String, run: Run, q: u32, colour: &str, name: &str) -> fmt::Result {
    let span = f64::from(run.to - run.from) / f64::from(q);
    let label = if run.to - run.from == 1 {
        format!("partition {}", run.from)
    } else {
        format!("partitions {} to {}", run.from, run.to - 1)
    };
    let (begin, end) = (f64::from(run.from) / f64::from(q), f64::from(run.to) / f64::from(q));
    // SVG draws no arc from a point to itself: one owner's whole ring is two halves in one path.
    let stops: &[f64] = if span >= 1.0 { &[0.0, 0.5, 1.0] } else { &[begin, end] };
    write!(out, r#"<path class="arc" fill="{colour}" d=""#)?;
    for pair in stops.windows(2) {
        let [from, to] = pair else { continue };
        let large = u8::from(to - from > 0.5);
        let [(x1, y1), (x2, y2)] = [point(*from, OUTER), point(*to, OUTER)];
        let [(x3, y3), (x4, y4)] = [point(*to, INNER), point(*from, INNER)];
        write!(
            out,
            "M{x1:.2} {y1:.2}A{OUTER} {OUTER} 0 {large} 1 {x2:.2} {y2:.2}L{x3:.2} {y3:.2}A{INNER} {INNER} 0 {large} 0 {x4:.2} {y4:.2}Z"
        )?;
    }
    writeln!(out, r#""><title>{name}: {label}</title></path>"#)
}

/// A point at `turn` (0 at the top, clockwise, 1 all around).
fn point(turn: f64, radius: f64) -> (f64, f64) {
    let (sine, cosine) = (turn * TAU).sin_cos();
    (radius.mul_add(sine, CENTRE), radius.mul_add(-cosine, CENTRE))
}

/// Where the tokens begin with 0, 4, 8 and c.
fn ticks(out: &mut String) -> fmt::Result {
    for (turn, label) in [(0.0, "0000…"), (0.25, "4000…"), (0.5, "8000…"), (0.75, "c000…")]
    {
        let [(x1, y1), (x2, y2)] = [point(turn, OUTER + 4.0), point(turn, OUTER + 14.0)];
        let (x, y) = point(turn, OUTER + 30.0);
        let anchor = match label {
            "4000…" => "start",
            "c000…" => "end",
            _ => "middle",
        };
        let (x, y) = (x, y + 5.0);
        writeln!(
            out,
            r#"<line class="tick" x1="{x1:.2}" y1="{y1:.2}" x2="{x2:.2}" y2="{y2:.2}"/>"#
        )?;
        writeln!(
            out,
            r#"<text class="quiet" x="{x:.2}" y="{y:.2}" font-size="14" text-anchor="{anchor}">{label}</text>"#
        )?;
    }
    Ok(())
}

fn centre(known: &Known, out: &mut String) -> fmt::Result {
    let ring = &known.layout.now;
    let quorum =
        format!("N={}  R={}  W={}", ring.effective_n(), ring.effective_r(), ring.effective_w());
    let lines = [
        (CENTRE - 34.0, 26, "", escaped(&known.cluster_name)),
        (CENTRE - 4.0, 17, "quiet", format!("layout {}", known.layout.version)),
        (CENTRE + 22.0, 17, "quiet", format!("{} partitions", ring.q)),
        (CENTRE + 56.0, 19, "", quorum),
    ];
    for (y, size, class, text) in lines {
        writeln!(
            out,
            r#"<text class="{class}" x="{CENTRE}" y="{y}" font-size="{size}" text-anchor="middle">{text}</text>"#
        )?;
    }
    Ok(())
}

/// The legend: a member's colour, name, zone, weight, and its shares as bars.
#[expect(clippy::cast_precision_loss, reason = "partitions are at most 65,536, members few")]
fn members(known: &Known, out: &mut String) -> fmt::Result {
    let ring = &known.layout.now;
    let balance = Balance::of(&known.preferences);
    let (q, replicas) = (ring.owner.len(), balance.replicas.iter().sum::<usize>());
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let largest = (0..ring.members.len())
        .map(|index| share(balance.firsts[index], q).max(share(balance.replicas[index], replicas)))
        .fold(f64::MIN_POSITIVE, f64::max);
    writeln!(out, r#"<text x="{LEGEND_LEFT}" y="86" font-size="22">Who owns what</text>"#)?;
    writeln!(
        out,
        r#"<text class="quiet" x="{LEGEND_LEFT}" y="112" font-size="15">full bar: partitions owned (first replica); pale bar: share of all replicas</text>"#
    )?;
    for (place, (index, member)) in by_name(ring).into_iter().enumerate() {
        let y = LEGEND_STEP.mul_add(place as f64, LEGEND_TOP);
        let colour = hex(place);
        let zone = if member.zone.is_empty() {
            String::new()
        } else {
            format!("  zone {}", escaped(&member.zone))
        };
        let (name, weight) = (escaped(&member.name), member.weight);
        let [first, all] = [(balance.firsts[index], q), (balance.replicas[index], replicas)];
        let [long, pale] =
            [first, all].map(|(part, whole)| share(part, whole) / largest * BAR_LENGTH);
        writeln!(
            out,
            r#"<rect x="{LEGEND_LEFT}" y="{y}" width="14" height="14" rx="3" fill="{colour}"/>"#
        )?;
        writeln!(
            out,
            r#"<text x="{}" y="{}" font-size="17">{name}<tspan class="quiet" font-size="14">{zone}  weight {weight}</tspan></text>"#,
            LEGEND_LEFT + 24.0,
            y + 13.0
        )?;
        let left = LEGEND_LEFT + 24.0;
        for (offset, length, opacity, (part, whole)) in
            [(20.0, long, 1.0, first), (32.0, pale, 0.45, all)]
        {
            let top = y + offset;
            writeln!(
                out,
                r#"<rect class="track" x="{left}" y="{top}" width="{BAR_LENGTH}" height="9" rx="2"/>"#
            )?;
            writeln!(
                out,
                r#"<rect x="{left}" y="{top}" width="{length:.1}" height="9" rx="2" fill="{colour}" fill-opacity="{opacity}"/>"#
            )?;
            writeln!(
                out,
                r#"<text class="quiet" x="{}" y="{}" font-size="12">{}</text>"#,
                left + BAR_LENGTH + 10.0,
                top + 8.5,
                percent(part, whole)
            )?;
        }
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    /// Whether every tag is closed in order and attributes are quoted: enough of XML for what we write.
    #[track_caller]
    fn check_well_formed(text: &str) {
        let mut open = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            let (body, after) = rest[start + 1..].split_once('>').expect("a tag ends");
            assert_eq!(body.matches('"').count() % 2, 0, "quotes in <{body}>");
            match body.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "</{name}>"),
                None if body.ends_with('/') => {}
                None => open.push(body.split(' ').next().unwrap_or_default()),
            }
            rest = after;
        }
        assert!(open.is_empty(), "left open: {open:?}");
        let entities = text.matches('&').count();
        let known = ["&amp;", "&lt;", "&gt;", "&quot;"].map(|entity| text.matches(entity).count());
        assert_eq!(entities, known.iter().sum::<usize>());
    }

    #[test]
    fn there_is_one_arc_a_run_of_partitions() {
        for (members, q) in [(1, 32), (3, 64), (5, 1024)] {
            let known = sample::known(members, q);
            let text = svg(&known);
            check_well_formed(&text);
            let owner = &known.layout.now.owner;
            let boundaries = owner.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert_eq!(text.matches(r#"<path class="arc""#).count(), boundaries + 1);
        }
    }

    #[test]
    fn runs_cover_the_ring() {
        let run = |owner, from, to| Run { owner, from, to };
        assert_eq!(runs(&[0, 0, 1, 0]), [run(0, 0, 2), run(1, 2, 3), run(0, 3, 4)]);
        assert_eq!(runs(&[7]), [run(7, 0, 1)]);
    }

    #[test]
    fn names_are_escaped() {
        let mut known = sample::known(3, 32);
        known.cluster_name = "a<b>&\"c\"".to_owned();
        check_well_formed(&svg(&known));
    }
}
