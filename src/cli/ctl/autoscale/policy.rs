//! The policy: what a cluster's load should be, and how nodes are started and stopped.
//!
//! ```toml
//! [nodes]
//! min = 3                          # never fewer members than this, nor than N
//! max = 5
//! name = "n{}"                     # of the nodes that are started; {} is a number
//! first = 4                        # the lowest one: n1 to n3 are not stopped
//! zones = ["a", "b", "c"]          # for new nodes; where none is named, those of the members
//! [looks]
//! interval = "30s"
//! out = 6                          # looks in a row before a node is added
//! in = 60                          # and before one is drained
//! [cooldown]
//! out = "10m"                      # after any change, before a node is added
//! in = "30m"                       # and before one is drained
//! [targets]                        # at least one; a node above `high` asks for more, all below `low` for fewer
//! operations = { high = 20000, low = 8000 }        # gets and puts a second that a node coordinates
//! cpu = { high = "70%", low = "35%" }              # of one processor
//! p99 = { high = "50ms", low = "20ms" }            # of gets and puts, over the last 30 to 60 s
//! disk = { high = "75%", low = "60%" }             # used where the data lies
//! [hot_keys]
//! share = "25%"                    # a key with so much of a node's operations is named
//! [commands]
//! start = ["./node.sh", "start"]   # no shell takes part; {node} and {zone} in it are filled in
//! stop = ["./node.sh", "stop"]
//! timeout = "1m"                   # of either
//! join_timeout = "2m"              # from the start of a node until it asks to join
//! ```
//! Unknown keys are refused, and every mistake is told with its line and column.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::ring::Member;

/// What stands for a number in the pattern of names.
const NUMBER: &str = "{}";
/// Longest time for either command, unless configured.
const TIMEOUT_DEFAULT: &str = "1m";
/// Longest time until a started node asks to join, unless configured.
const JOIN_TIMEOUT_DEFAULT: &str = "2m";
/// The part of a node's operations from which a key is named, unless configured.
const HOT_SHARE_DEFAULT: &str = "25%";

/// A policy, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    /// Fewest members.
    pub(super) min: usize,
    /// Most members.
    pub(super) max: usize,
    pub(super) names: Names,
    /// Zones for new nodes, in order of preference; empty: those of the members.
    pub(super) zones: Vec<String>,
    /// Between looks.
    pub(super) interval: Duration,
    /// When a node is added.
    pub(super) out: Patience,
    /// When a node is drained.
    pub(super) back: Patience,
    /// The signals that count, each with its marks.
    pub(super) targets: Vec<(Signal, Marks)>,
    /// From which part of a node's operations a key is named.
    pub(super) hot_share: f64,
    pub(super) commands: Commands,
}

/// How the nodes are called that are started and stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    before: String,
    behind: String,
    first: u32,
}

/// How long something must be so before it is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// Looks in a row.
    pub(super) looks: u32,
    /// Time since any change.
    pub(super) cooldown: Duration,
}

/// What is looked at, of each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    /// Gets and puts a second that it coordinates.
    Operations,
    /// Processors that it keeps busy.
    Cpu,
    /// 99th percentile of its gets or its puts, the longer one, microseconds.
    P99,
    /// The part of its disk that is used.
    Disk,
}

/// A signal's marks, in its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Marks {
    /// A node above it asks for more nodes.
    pub(super) high: f64,
    /// Where all are below it, fewer would do.
    pub(super) low: f64,
}

/// The operator's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commands {
    /// Starts a node; again for one that runs, it does no harm.
    pub(super) start: Vec<String>,
    /// Stops a node that is no member, and clears its data away.
    pub(super) stop: Vec<String>,
    /// Longest time for either.
    pub(super) timeout: Duration,
    /// Longest time from the start of a node until it asks to join.
    pub(super) join_timeout: Duration,
}

impl Policy {
    /// Reads a policy's file.
    /// # Errors
    /// Exit 66 where there is none, 78 where it is wrong, with line and column.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot read {}", path.display());
            Failure::new(Exit::of_io(&error), message).because(error)
        })?;
        let mut policy = Self::parse(&text).map_err(|mistake| {
            let (line, column) = human::line_and_column(&text, mistake.at);
            let message = format!("{}:{line}:{column}: {}", path.display(), mistake.text);
            Failure::new(Exit::Config, message).detail("line", line).detail("column", column)
        })?;
        for command in [&mut policy.commands.start, &mut policy.commands.stop] {
            find_beside(path, &mut command[0]);
        }
        Ok(policy)
    }

    fn parse(text: &str) -> Result<Self, Mistake> {
        let file: File = toml::from_str(text).map_err(|error| Mistake {
            at: error.span().map_or(0, |span| span.start),
            text: error.message().replace('\n', ", "),
        })?;
        file.check()
    }
}

impl Names {
    /// The name with this number.
    pub(super) fn name(&self, number: u32) -> String {
        format!("{}{number}{}", self.before, self.behind)
    }

    /// The number in a name, where it is one of a node that may be started and stopped.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&self.before)?.strip_suffix(&self.behind)?;
        let number = digits.parse().ok().filter(|number| self.first <= *number)?;
        // `n04` and `n+4` are somebody else's.
        (self.name(number) == name).then_some(number)
    }

    /// All names, the lowest number first.
    pub(super) fn all(&self) -> impl Iterator<Item = String> {
        (self.first..=u32::MAX).map(|number| self.name(number))
    }
}

impl Signal {
    /// The signal's name, as in the policy.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Cpu => "cpu",
            Self::P99 => "p99",
            Self::Disk => "disk",
        }
    }

    /// A value of it, as people read it.
    pub(super) fn shown(self, value: f64) -> String {
        match self {
            Self::Operations => format!("{value:.0}/s"),
            Self::Cpu | Self::Disk => format!("{:.0}%", 100.0 * value),
            Self::P99 => human::duration(Duration::from_secs_f64(value.max(0.0) / 1e6)),
        }
    }
}

/// Something wrong, at a byte of the file.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    at: usize,
    text: String,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nodes: Nodes,
    looks: Looks,
    cooldown: Cooldown,
    targets: Spanned<Targets>,
    #[serde(default)]
    hot_keys: HotKeys,
    commands: CommandLines,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nodes {
    min: Spanned<usize>,
    max: Spanned<usize>,
    name: Spanned<String>,
    #[serde(default = "one")]
    first: u32,
    #[serde(default)]
    zones: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Looks {
    interval: Spanned<Span>,
    out: Spanned<u32>,
    #[serde(rename = "in")]
    back: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cooldown {
    out: Span,
    #[serde(rename = "in")]
    back: Span,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Targets {
    operations: Option<Spanned<Pair<f64>>>,
    cpu: Option<Spanned<Pair<Share>>>,
    p99: Option<Spanned<Pair<Span>>>,
    disk: Option<Spanned<Pair<Share>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair<T> {
    high: T,
    low: T,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HotKeys {
    share: Share,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandLines {
    start: Spanned<Vec<String>>,
    stop: Spanned<Vec<String>>,
    #[serde(default = "timeout_default")]
    timeout: Spanned<Span>,
    #[serde(default = "join_timeout_default")]
    join_timeout: Spanned<Span>,
}

/// A time as people write it.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

/// A part of a whole, in percent.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Share(f64);

impl File {
    fn check(self) -> Result<Policy, Mistake> {
        let Nodes { min, max, name, first, zones } = self.nodes;
        demand(0 < *min.get_ref(), min.span(), "at least one node is needed")?;
        demand(min.get_ref() <= max.get_ref(), max.span(), "max is below min")?;
        let names = Names::of(&name, first)?;
        for zone in &zones {
            demand(Member::is_zone(zone.get_ref()), zone.span(), "this is no name for a zone")?;
        }
        let patience = |looks: &Spanned<u32>, cooldown: Span| {
            demand(0 < *looks.get_ref(), looks.span(), "at least one look is needed")?;
            Ok(Patience { looks: *looks.get_ref(), cooldown: cooldown.0 })
        };
        Ok(Policy {
            min: min.into_inner(),
            max: max.into_inner(),
            names,
            zones: zones.into_iter().map(Spanned::into_inner).collect(),
            interval: above_zero(&self.looks.interval)?,
            out: patience(&self.looks.out, self.cooldown.out)?,
            back: patience(&self.looks.back, self.cooldown.back)?,
            targets: marks(self.targets)?,
            hot_share: self.hot_keys.share.0,
            commands: self.commands.check()?,
        })
    }
}

impl CommandLines {
    fn check(self) -> Result<Commands, Mistake> {
        for command in [&self.start, &self.stop] {
            let program = command.get_ref().first();
            let is_named = program.is_some_and(|program| !program.is_empty());
            demand(is_named, command.span(), "a command begins with a program")?;
        }
        Ok(Commands {
            timeout: above_zero(&self.timeout)?,
            join_timeout: above_zero(&self.join_timeout)?,
            start: self.start.into_inner(),
            stop: self.stop.into_inner(),
        })
    }
}

impl Names {
    fn of(pattern: &Spanned<String>, first: u32) -> Result<Self, Mistake> {
        let wrong = "a name with one {} for a number is needed, such as n{}";
        let text = pattern.get_ref();
        let Some((before, behind)) = text.split_once(NUMBER) else {
            return Err(Mistake { at: pattern.span().start, text: wrong.to_owned() });
        };
        let names = Self { before: before.to_owned(), behind: behind.to_owned(), first };
        // Beside another digit nobody knows where the number ends.
        let is_told_apart = !before.ends_with(is_digit)
            && !behind.starts_with(is_digit)
            && !behind.contains(NUMBER);
        let is_name = Member::is_name(&names.name(u32::MAX));
        demand(is_told_apart && is_name, pattern.span(), wrong)?;
        Ok(names)
    }
}

fn marks(targets: Spanned<Targets>) -> Result<Vec<(Signal, Marks)>, Mistake> {
    let span = targets.span();
    let Targets { operations, cpu, p99, disk } = targets.into_inner();
    let micros = |span: Span| span.0.as_secs_f64() * 1e6;
    let marks: Vec<(Signal, Marks)> = [
        read(Signal::Operations, operations, |number| number)?,
        read(Signal::Cpu, cpu, |share| share.0)?,
        read(Signal::P99, p99, micros)?,
        read(Signal::Disk, disk, |share| share.0)?,
    ]
    .into_iter()
    .flatten()
    .collect();
    demand(!marks.is_empty(), span, "at least one of operations, cpu, p99 and disk is needed")?;
    Ok(marks)
}

fn read<T>(
    signal: Signal,
    pair: Option<Spanned<Pair<T>>>,
    value: impl Fn(T) -> f64,
) -> Result<Option<(Signal, Marks)>, Mistake> {
    let Some(pair) = pair else { return Ok(None) };
    let span = pair.span();
    let Pair { high, low } = pair.into_inner();
    let marks = Marks { high: value(high), low: value(low) };
    // What is not a number is not less, either.
    demand(0.0 <= marks.low && marks.low < marks.high, span, "low must be below high")?;
    Ok(Some((signal, marks)))
}

fn above_zero(span: &Spanned<Span>) -> Result<Duration, Mistake> {
    let Span(time) = *span.get_ref();
    demand(!time.is_zero(), span.span(), "a time above zero is needed")?;
    Ok(time)
}

fn demand(is_kept: bool, span: Range<usize>, text: &str) -> Result<(), Mistake> {
    if is_kept { Ok(()) } else { Err(Mistake { at: span.start, text: text.to_owned() }) }
}

const fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// A program with a relative path lies beside the policy, wherever the policy is read from.
fn find_beside(policy: &Path, program: &mut String) {
    let path = PathBuf::from(&*program);
    if path.is_relative() && program.contains('/') {
        let beside = policy.parent().unwrap_or(Path::new("")).join(path);
        let found = std::path::absolute(&beside).unwrap_or(beside);
        *program = found.display().to_string();
    }
}

const fn one() -> u32 {
    1
}

/// A default has no place in the file.
fn of_default(text: &str) -> Spanned<Span> {
    Spanned::new(0..0, Span(human::parse_duration(text).unwrap_or(Duration::MAX)))
}

fn timeout_default() -> Spanned<Span> {
    of_default(TIMEOUT_DEFAULT)
}

fn join_timeout_default() -> Spanned<Span> {
    of_default(JOIN_TIMEOUT_DEFAULT)
}

impl Default for HotKeys {
    fn default() -> Self {
        Self { share: HOT_SHARE_DEFAULT.to_owned().try_into().unwrap_or(Share(1.0)) }
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        human::parse_duration(&text).map(Self)
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(percent) if percent.is_finite() && 0.0 <= percent => Ok(Self(percent / 100.0)),
            Some(_) | None => Err(format!("`{text}` is no share (example: 70%)")),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"[nodes]
min = 3
max = 5
name = "n{}"
first = 4
zones = ["a", "b"]
[looks]
interval = "30s"
out = 6
in = 60
[cooldown]
out = "10m"
in = "30m"
[targets]
operations = { high = 20000, low = 8000 }
cpu = { high = "70%", low = "35%" }
p99 = { high = "50ms", low = "20ms" }
disk = { high = "75%", low = "60%" }
[hot_keys]
share = "30%"
[commands]
start = ["./node.sh", "start"]
stop = ["/bin/node.sh", "stop"]
timeout = "10s"
join_timeout = "20s"
"#;

    /// What is said of the whole policy with one text in place of another.
    #[track_caller]
    fn check(text: &str, by: &str, line: usize, column: usize, said: &str) {
        assert!(WHOLE.contains(text), "{text}");
        let changed = WHOLE.replacen(text, by, 1);
        let mistake = Policy::parse(&changed).unwrap_err();
        let place = human::line_and_column(&changed, mistake.at);
        assert!(mistake.text.contains(said), "{by}: {}", mistake.text);
        assert_eq!(place, (line, column), "{by}: {}", mistake.text);
        assert!(!mistake.text.contains('\n'), "{}", mistake.text);
    }

    #[test]
    fn a_whole_policy_is_read_and_most_of_it_has_defaults() {
        let policy = Policy::parse(WHOLE).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((policy.min, policy.max, policy.interval), (3, 5, seconds(30)));
        assert_eq!(policy.back, Patience { looks: 60, cooldown: seconds(1_800) });
        let p99 = policy.targets.iter().find(|(signal, _)| *signal == Signal::P99).unwrap();
        assert_eq!(p99.1, Marks { high: 50_000.0, low: 20_000.0 });
        assert!((policy.hot_share - 0.3).abs() < 1e-9);
        let least = WHOLE
            .lines()
            .filter(|line| {
                let left_out = ["first", "zones", "cpu", "p99", "disk", "[hot", "share", "time"];
                !left_out.iter().any(|word| line.starts_with(word)) && !line.starts_with("join_")
            })
            .collect::<Vec<_>>()
            .join("\n");
        let policy = Policy::parse(&least).unwrap();
        assert_eq!(policy.names.all().next().unwrap(), "n1");
        assert_eq!(
            (policy.commands.timeout, policy.commands.join_timeout),
            (seconds(60), seconds(120))
        );
        assert!((policy.hot_share - 0.25).abs() < 1e-9);
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        check("max = 5", "max = 2", 3, 7, "max is below min");
        check("min = 3", "min = 0", 2, 7, "at least one node");
        check("min = 3\n", "", 1, 1, "missing field `min`");
        check("first = 4", "frist = 4", 5, 1, "unknown field `frist`");
        check("\"n{}\"", "\"n\"", 4, 8, "one {} for a number");
        check("\"n{}\"", "\"n{}{}\"", 4, 8, "one {} for a number");
        check("\"n{}\"", "\"n1{}\"", 4, 8, "one {} for a number");
        check("\"n{}\"", "\"n {}\"", 4, 8, "one {} for a number");
        check("\"30s\"", "\"0s\"", 8, 12, "above zero");
        check("\"30s\"", "\"soon\"", 8, 12, "`soon` is no duration");
        check("out = 6", "out = 0", 9, 7, "at least one look");
        check("high = 20000", "high = 2000", 15, 14, "low must be below high");
        check("low = 8000", "low = nan", 15, 14, "low must be below high");
        check("\"70%\"", "\"70\"", 16, 16, "`70` is no share");
        check("[\"./node.sh\", \"start\"]", "[]", 22, 9, "begins with a program");
        check("[\"./node.sh\", \"start\"]", "\"./node.sh start\"", 22, 9, "invalid type: string");
        check("[nodes]", "[nodes", 1, 7, "");
        let none = "operations = { high = 20000, low = 8000 }\ncpu = { high = \"70%\", low = \"35%\" }\n\
            p99 = { high = \"50ms\", low = \"20ms\" }\ndisk = { high = \"75%\", low = \"60%\" }\n";
        check(none, "", 14, 1, "at least one of");
    }

    #[test]
    fn a_name_has_its_number() {
        let names = Policy::parse(WHOLE).unwrap().names;
        for (name, number) in [
            ("n4", Some(4)),
            ("n17", Some(17)),
            ("n3", None),
            ("n", None),
            ("n04", None),
            ("n+4", None),
            ("m4", None),
            ("n4b", None),
            ("n99999999999", None),
        ] {
            assert_eq!(names.number(name), number, "{name}");
        }
        assert_eq!(names.all().take(2).collect::<Vec<_>>(), ["n4", "n5"]);
    }

    #[test]
    fn a_program_lies_beside_its_policy_unless_it_is_looked_up() {
        for (program, found) in [
            ("./node.sh", "/etc/kv/./node.sh"),
            ("bin/node", "/etc/kv/bin/node"),
            ("/bin/node", "/bin/node"),
            ("systemctl", "systemctl"),
        ] {
            let mut program = program.to_owned();
            find_beside(Path::new("/etc/kv/policy.toml"), &mut program);
            assert_eq!(Path::new(&program), Path::new(found));
        }
    }
}
