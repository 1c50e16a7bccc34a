//! `simulate`: how even rings of any size are, and what joins move: the solver's placement, and random tokens beside it.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::progress::ProgressForm;
use crate::cli::table::{Side, Table};
use crate::ring::{
    Balance, Layout, Member, Mode, Movement, PARTITIONS_MAX, Preferences, RandomTokens, Ring,
    Spread, Token, Weight, Wish, plan, planned_id,
};

use super::moves::count;

/// Most members that can be simulated.
const NODES_MAX: u16 = 10_000;
/// Partitions that a member should have at least, where there can be so many.
const PARTITIONS_OF_MEMBER_MIN: u32 = 32;
/// Partitions where none are asked for and the members want no more.
const PARTITIONS_DEFAULT: u32 = 1_024;
/// Keys where none are asked for: so many a member, that their own chance hides little …
const KEYS_OF_MEMBER: u64 = 1_000;
/// … and no less than this.
const KEYS_MIN: u64 = 1_000_000;
/// From so many members on each step takes seconds, and is announced.
const ANNOUNCED_MIN: u16 = 1_000;

#[derive(Args, Clone, Debug)]
pub(super) struct SimulateArgs {
    /// Members, up to 10,000
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// Partitions, a power of two up to 65,536 [default: 32 a member or more, at least 1024]
    #[arg(long, value_name = "Q")]
    partitions: Option<u32>,
    /// Replicas that a key has
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    n: u8,
    /// Weights, given to the members in turn
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    weights: Vec<Weight>,
    /// Zones, given to the members in turn; 0 is none
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    zones: u16,
    /// Compare with so many random tokens for each member of weight 1
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    random_tokens: Option<u32>,
    /// Keys to hash [default: 1000 a member, at least a million]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// Members that join one after the other; what each one moves is shown
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    joins: u16,
    /// Where keys and tokens begin: the same seed, the same figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to announce the steps on stderr; auto does so from 1000 members
    #[arg(long, value_enum, value_name = "FORM", default_value_t = ProgressForm::Auto)]
    progress: ProgressForm,
}

/// How even a placement is in one respect.
struct Evenness {
    placement: &'static str,
    what: &'static str,
    measured: &'static str,
    spread: Spread,
}

/// What one join moved, of all replica data.
struct Joined {
    placement: &'static str,
    members: usize,
    moved: f64,
    least: f64,
    spread: Spread,
}

/// The ring that is looked at, both ways.
struct Simulation<'a> {
    args: &'a SimulateArgs,
    solved: Preferences,
    tokens: Option<(RandomTokens, ChaCha8Rng)>,
    announces: Announces,
}

/// In which form a step is announced.
#[derive(Clone, Copy, Debug)]
enum Announces {
    Lines,
    Json,
    Nothing,
}

const SOLVER: &str = "solver";
const TOKENS: &str = "tokens";

/// `simulate`.
pub(super) fn simulate(
    args: &SimulateArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if args.nodes.saturating_add(args.joins) > NODES_MAX {
        return Err(Failure::usage(format!("more than {NODES_MAX} members with --joins")).into());
    }
    let mut simulation = Simulation::new(args, common)?;
    let evenness = simulation.evenness();
    let header = Object::new("simulation")
        .field("nodes", args.nodes)
        .field("partitions", simulation.ring().q)
        .field("n", simulation.ring().effective_n())
        .field("zones", args.zones)
        .maybe("random_tokens", args.random_tokens)
        .field("keys", args.keys())
        .field("seed", args.seed);
    match common.format() {
        Format::Json => {
            writeln!(out, "{}", header.finish())?;
            evenness.iter().try_for_each(|even| writeln!(out, "{}", even.object().finish()))?;
        }
        Format::Plain => table(&evenness).write_plain(out)?,
        Format::Human => {
            writeln!(out, "{}", simulation.headline())?;
            table(&evenness).write(out)?;
        }
    }
    let mut joins = Vec::new();
    for number in 0..args.joins {
        let joined = simulation.join(number)?;
        if common.json {
            joined.iter().try_for_each(|joined| writeln!(out, "{}", joined.object().finish()))?;
        }
        joins.extend(joined);
    }
    match common.format() {
        Format::Json => {}
        Format::Plain => join_table(&joins).write_plain(out)?,
        Format::Human if joins.is_empty() => {}
        Format::Human => join_table(&joins).write(out)?,
    }
    Ok(Exit::Done)
}

impl SimulateArgs {
    fn partitions(&self) -> u32 {
        let wanted = u32::from(self.nodes) * PARTITIONS_OF_MEMBER_MIN;
        let wanted = wanted.next_power_of_two().clamp(PARTITIONS_DEFAULT, PARTITIONS_MAX);
        self.partitions.unwrap_or(wanted)
    }

    fn keys(&self) -> u64 {
        self.keys.unwrap_or_else(|| (u64::from(self.nodes) * KEYS_OF_MEMBER).max(KEYS_MIN))
    }

    /// The member with this number, from 0.
    fn member(&self, number: u16) -> Member {
        let name = format!("n{}", number + 1);
        let zone = number.checked_rem(self.zones);
        Member {
            id: planned_id(&name),
            name,
            zone: zone.map_or_else(String::new, |zone| format!("z{}", zone + 1)),
            weight: self.weights[usize::from(number) % self.weights.len()],
        }
    }
}

impl<'a> Simulation<'a> {
    fn new(args: &'a SimulateArgs, common: &Common) -> anyhow::Result<Self> {
        let announces = Announces::of(args, common);
        let members: Vec<Member> = (0..args.nodes).map(|number| args.member(number)).collect();
        let n = args.n;
        let q = args.partitions();
        announces.step(&format!("placing {} members over {q} partitions", args.nodes));
        let layout = Layout::found(q, n, 1, 1, Mode::Available, members);
        let ring = layout.map_err(|error| Failure::usage(error.to_string()))?.now;
        let tokens = args.random_tokens.map(|tokens| {
            announces.step(&format!("drawing {tokens} tokens a member"));
            let mut random = ChaCha8Rng::seed_from_u64(args.seed);
            let members = ring.members.clone();
            (RandomTokens::draw(n, members, tokens as usize, &mut random), random)
        });
        Ok(Self { args, solved: preferences(ring), tokens, announces })
    }

    fn ring(&self) -> &Ring {
        self.solved.ring()
    }

    fn headline(&self) -> String {
        let SimulateArgs { nodes, zones, seed, .. } = self.args;
        let zones = if *zones == 0 { String::new() } else { format!(" in {zones} zones") };
        let Ring { q, .. } = self.ring();
        let (n, keys) = (self.ring().effective_n(), self.args.keys());
        format!("{nodes} members{zones}, {q} partitions, N={n}; {keys} keys, seed {seed}")
    }

    /// How even replicas and first replicas are: of the ring, which is what endless keys would give, and of many keys.
    fn evenness(&self) -> Vec<Evenness> {
        let counts = self.count_keys();
        let balance = Balance::of(&self.solved);
        let real = |counts: &[usize]| counts.iter().copied().map(count).collect();
        let solved = Held { replicas: real(&balance.replicas), firsts: real(&balance.firsts) };
        let mut evenness = solved.evenness(SOLVER, "ring", &balance.fair);
        evenness.extend(counts.0.evenness(SOLVER, "keys", &balance.fair));
        if let Some((tokens, _)) = &self.tokens {
            let (replicas, firsts) = tokens.held();
            let fair = tokens.fair();
            evenness.extend(Held { replicas, firsts }.evenness(TOKENS, "ring", &fair));
            evenness.extend(counts.1.evenness(TOKENS, "keys", &fair));
        }
        evenness
    }

    /// Hashes keys, and counts what each member holds, of the solver's placement and of random tokens.
    fn count_keys(&self) -> (Held, Held) {
        self.announces.step(&format!("hashing {} keys", self.args.keys()));
        let members = self.ring().members.len();
        let (mut solved, mut drawn) = (Held::nothing(members), Held::nothing(members));
        let n = self.ring().effective_n();
        for number in 0..self.args.keys() {
            let key = format!("{}:{number}", self.args.seed);
            let token = Token::of(key.as_bytes());
            solved.count(&self.solved.of_slot(token.slot()).indexes()[..n]);
            if let Some((tokens, _)) = &self.tokens {
                drawn.count(tokens.owners(token));
            }
        }
        (solved, drawn)
    }

    /// The next member joins, both ways.
    fn join(&mut self, number: u16) -> anyhow::Result<Vec<Joined>> {
        let joiner = self.args.member(self.args.nodes + number);
        self.announces.step(&format!("joining {}", joiner.name));
        let Member { name, zone, weight, .. } = joiner.clone();
        let wish = Wish::Add { name, zone, weight };
        let planned = plan(self.ring(), &[wish]).context("placing a further member")?;
        let after = preferences(planned.ring);
        let movement = Movement::between(&self.solved, &after);
        let least = Movement::least(&self.solved, after.ring());
        let balance = Balance::of(&after);
        let replicas: Vec<f64> = balance.replicas.iter().copied().map(count).collect();
        let members = after.ring().members.len();
        self.solved = after;
        let mut outcome = vec![Joined {
            placement: SOLVER,
            members,
            moved: movement.share(),
            least: count(least) / count(movement.replicas.max(1)),
            spread: Spread::of(&replicas, &balance.fair),
        }];
        if let Some((tokens, random)) = &mut self.tokens {
            let before = tokens.clone();
            tokens.join(vec![joiner], random);
            let fair = tokens.fair();
            outcome.push(Joined {
                placement: TOKENS,
                members,
                moved: tokens.moved_since(&before),
                least: fair.last().copied().unwrap_or(0.0) / fair.iter().sum::<f64>(),
                spread: Spread::of(&tokens.held().0, &fair),
            });
        }
        Ok(outcome)
    }
}

impl Announces {
    fn of(args: &SimulateArgs, common: &Common) -> Self {
        match args.progress {
            ProgressForm::Json => Self::Json,
            ProgressForm::Auto if args.nodes >= ANNOUNCED_MIN && !common.quiet && !common.json => {
                Self::Lines
            }
            ProgressForm::Auto | ProgressForm::None => Self::Nothing,
        }
    }

    fn step(self, what: &str) {
        let line = match self {
            Self::Lines => what.to_owned(),
            Self::Json => Object::new("progress").field("step", what).finish(),
            Self::Nothing => return,
        };
        // Progress that cannot be shown does not stop the work.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

fn preferences(ring: Ring) -> Preferences {
    Preferences::without_fallbacks(Arc::new(ring))
}

/// What each member holds.
struct Held {
    replicas: Vec<f64>,
    firsts: Vec<f64>,
}

impl Held {
    fn nothing(members: usize) -> Self {
        Self { replicas: vec![0.0; members], firsts: vec![0.0; members] }
    }

    /// One key's owners hold it.
    fn count(&mut self, owners: &[u16]) {
        for index in owners {
            self.replicas[usize::from(*index)] += 1.0;
        }
        self.firsts[usize::from(owners[0])] += 1.0;
    }

    fn evenness(
        &self,
        placement: &'static str,
        measured: &'static str,
        fair: &[f64],
    ) -> Vec<Evenness> {
        [("replicas", &self.replicas), ("first replicas", &self.firsts)]
            .map(|(what, held)| Evenness {
                placement,
                what,
                measured,
                spread: Spread::of(held, fair),
            })
            .into()
    }
}

impl Evenness {
    fn object(&self) -> Object {
        let object = Object::new("evenness")
            .field("placement", self.placement)
            .field("what", self.what.replace(' ', "_"))
            .field("measured", self.measured);
        with_spread(object, self.spread)
    }
}

impl Joined {
    fn object(&self) -> Object {
        let object = Object::new("join")
            .field("placement", self.placement)
            .field("members", self.members)
            .field("moved", self.moved)
            .field("least", self.least);
        with_spread(object, self.spread)
    }
}

fn with_spread(object: Object, Spread { max, min, deviation }: Spread) -> Object {
    object.field("max_to_mean", max).field("min_to_mean", min).field("deviation", deviation)
}

fn table(evenness: &[Evenness]) -> Table {
    let mut table = Table::new(&[
        ("PLACEMENT", Side::Left),
        ("WHAT", Side::Left),
        ("MEASURED", Side::Left),
        ("MAX/MEAN", Side::Right),
        ("MIN/MEAN", Side::Right),
        ("STDDEV", Side::Right),
    ]);
    for Evenness { placement, what, measured, spread: Spread { max, min, deviation } } in evenness {
        table.row([
            (*placement).to_owned(),
            (*what).to_owned(),
            (*measured).to_owned(),
            format!("{max:.3}"),
            format!("{min:.3}"),
            format!("{deviation:.4}"),
        ]);
    }
    table
}

fn join_table(joins: &[Joined]) -> Table {
    let mut table = Table::new(&[
        ("JOIN TO", Side::Right),
        ("PLACEMENT", Side::Left),
        ("MOVED", Side::Right),
        ("LEAST", Side::Right),
        ("MAX/MEAN", Side::Right),
        ("MIN/MEAN", Side::Right),
        ("STDDEV", Side::Right),
    ]);
    let percent = |share: f64| format!("{:.3}%", share * 100.0);
    for Joined { placement, members, moved, least, spread } in joins {
        let Spread { max, min, deviation } = spread;
        table.row([
            members.to_string(),
            (*placement).to_owned(),
            percent(*moved),
            percent(*least),
            format!("{max:.3}"),
            format!("{min:.3}"),
            format!("{deviation:.4}"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn args(line: &str) -> SimulateArgs {
        Line::parse_from(std::iter::once("simulate").chain(line.split(' '))).args
    }

    #[test]
    fn partitions_and_keys_grow_with_the_members() {
        let sizes = [1, 32, 33, 1_000, 10_000].map(|nodes| {
            let args = args(&format!("--nodes {nodes}"));
            (args.partitions(), args.keys())
        });
        let million = 1_000_000;
        let expected = [
            (1 << 10, million),
            (1 << 10, million),
            (1 << 11, million),
            (1 << 15, million),
            (1 << 16, 10 * million),
        ];
        assert_eq!(sizes, expected);
        assert_eq!(args("--nodes 5 --partitions 64 --keys 7").partitions(), 64);
    }

    #[test]
    fn members_take_weights_and_zones_in_turn() {
        let args = args("--nodes 4 --weights 1,0.5 --zones 3");
        let shown = |number| {
            let Member { name, zone, weight, .. } = args.member(number);
            format!("{name}@{zone} {weight}")
        };
        assert_eq!([0, 1, 2, 3].map(shown), ["n1@z1 1.0", "n2@z2 0.5", "n3@z3 1.0", "n4@z1 0.5"]);
    }

    /// The solver is even where random tokens are not, and a join moves about as little as can be.
    #[test]
    fn the_solver_is_more_even_than_tokens() {
        let args = args("--nodes 20 --random-tokens 16 --keys 50000 --joins 2");
        let common = Common { quiet: true, ..Common::default() };
        let mut simulation = Simulation::new(&args, &common).unwrap();
        let evenness = simulation.evenness();
        let worst = |placement: &str, measured: &str| {
            let of = |even: &&Evenness| even.placement == placement && even.measured == measured;
            evenness.iter().filter(of).map(|even| even.spread.max).fold(0.0, f64::max)
        };
        assert!(worst(SOLVER, "ring") < 1.05 && worst(TOKENS, "ring") > 1.15);
        // 50,000 keys on 20 members: each first replica counts 2,500 ± 50.
        assert!((worst(SOLVER, "keys") - worst(SOLVER, "ring")).abs() < 0.08);
        assert!((worst(TOKENS, "keys") - worst(TOKENS, "ring")).abs() < 0.15);
        for number in 0..2 {
            let [solved, drawn] = &simulation.join(number).unwrap()[..] else {
                panic!("both ways")
            };
            assert_eq!(
                (solved.members, drawn.members),
                (21 + usize::from(number), 21 + usize::from(number))
            );
            assert!(
                solved.least <= solved.moved + 1e-9 && solved.moved < 1.2 * solved.least,
                "{}",
                solved.moved
            );
        }
    }
}
