//! kvnode's configuration: flags > `KVNODE_SECTION__KEY` > file > defaults (UI §6).
//!
//! `keys` holds the table of keys, `sources` lays the layers over each other and remembers each value's origin, and
//! here the texts become a [`Config`], every value checked. All problems are reported at once, each with its place.

mod keys;
mod parse;
mod sources;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::node::HintLimits;
use crate::ring::{Mode, Weight};
use crate::storage::{self, Compression, SyncMode};

pub(crate) use keys::KEYS;
use keys::{Built, Key};
use parse::Fields;
pub use sources::{Origin, Setting, Settings, gather};

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node's name.
    pub name: String,
    /// Its failure zone.
    pub zone: String,
    /// Whether an operator commits it when it joins.
    pub is_staged: bool,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// Peers to ask first.
    pub seeds: Vec<String>,
    /// Where other nodes reach it.
    pub listen_peer: String,
    /// Where clients reach it.
    pub listen_client: String,
    /// Where HTTP is served.
    pub listen_http: Option<String>,
    /// `listen.advertise_peer`, unless empty.
    pub advertise_peer: Option<String>,
    /// `listen.advertise_client`, unless empty.
    pub advertise_client: Option<String>,
    /// What the cluster is founded with.
    pub founding: Founding,
    /// Deadline of a request that names none.
    pub timeout: Duration,
    /// Longest key and value together, bytes.
    pub pair_max: u32,
    /// When a write is acknowledged.
    pub sync: SyncMode,
    /// A memtable of this many bytes is written out.
    pub memtable: usize,
    /// Bytes of blocks kept in memory.
    pub cache: u64,
    /// Bytes of memory for cache, memtables, indexes and filters.
    pub memory: u64,
    /// Whether blocks are compressed.
    pub compression: Compression,
    /// Bloom filter bits a key.
    pub bloom_bits: u32,
    /// How often a node raises its heartbeat.
    pub gossip_interval: Duration,
    /// What is kept for other nodes, and for how long.
    pub hints: HintLimits,
    /// Bytes a second that anti-entropy may move.
    pub repair_rate: u64,
    /// Clients at once.
    pub connections: usize,
    /// Largest message, bytes.
    pub frame: usize,
    /// Requests in flight, bytes.
    pub requests_memory: usize,
    /// Which log lines are written.
    pub log_filter: String,
    /// How they are written.
    pub log_format: LogFormat,
}

/// What counts only when the cluster is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Replicas of each key.
    pub n: u8,
    /// Replicas a read waits for.
    pub r: u8,
    /// Replicas a write waits for.
    pub w: u8,
    /// Whether requests are strict by default.
    pub mode: Mode,
    /// Partitions of the ring.
    pub partitions: u32,
    /// This node's share.
    pub weight: Weight,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text; without times under systemd, which adds its own.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What.
    pub text: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// All that is wrong.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
}

impl Config {
    /// Reads `file` under the environment and the flags.
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&Path>, flags: &[String]) -> Result<Self, ConfigError> {
        Self::from_settings(&gather(file, std::env::vars(), flags)?)
    }

    /// Checks every value.
    /// # Errors
    /// [`ConfigError::Problems`].
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let mut fields = Fields::new(settings);
        refuse_what_is_not_built(settings, &mut fields);
        let config = Self::read(&mut fields);
        config.check(&mut fields);
        fields.finish(config)
    }

    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            name: fields.text("node.name"),
            zone: fields.text("node.zone"),
            is_staged: fields.text("node.join") == "staged",
            data_dir: fields.text("node.data_dir").into(),
            cluster: fields.text("node.cluster"),
            seeds: fields.addresses("node.seeds"),
            listen_peer: fields.address("listen.peer"),
            listen_client: fields.address("listen.client"),
            listen_http: fields.address_or_none("listen.http"),
            advertise_peer: fields.address_or_none("listen.advertise_peer"),
            advertise_client: fields.address_or_none("listen.advertise_client"),
            founding: Founding {
                n: fields.count("quorum.n"),
                r: fields.count("quorum.r"),
                w: fields.count("quorum.w"),
                mode: fields.choice("quorum.mode", &[Mode::Available, Mode::Consistent]),
                partitions: fields.count("ring.partitions"),
                weight: fields.weight("ring.weight"),
            },
            timeout: fields.span("quorum.timeout"),
            pair_max: fields.size("quorum.pair_max"),
            sync: fields.sync("storage.sync"),
            memtable: fields.size("storage.memtable"),
            cache: fields.size("storage.cache"),
            memory: fields.size("storage.memory"),
            compression: fields
                .choice("storage.compression", &[Compression::Lz4, Compression::None]),
            bloom_bits: fields.count("storage.bloom_bits"),
            gossip_interval: fields.span("gossip.interval"),
            hints: HintLimits {
                ttl: fields.span("hints.ttl"),
                bytes_max: fields.size("hints.max"),
            },
            repair_rate: fields.rate("repair.rate"),
            connections: fields.count("limits.connections"),
            frame: fields.size("limits.frame"),
            requests_memory: fields.size("limits.memory"),
            log_filter: fields.text("log.filter"),
            log_format: fields
                .choice("log.format", &[LogFormat::Auto, LogFormat::Text, LogFormat::Json]),
        }
    }

    /// What two values must keep to together, and what a form alone does not say.
    fn check(&self, fields: &mut Fields<'_>) {
        let Founding { n, r, w, partitions, .. } = self.founding;
        fields.demand(r <= n, "quorum.r", format!("r = {r} is above n = {n}"));
        fields.demand(w <= n, "quorum.w", format!("w = {w} is above n = {n}"));
        fields.demand(
            partitions.is_power_of_two(),
            "ring.partitions",
            format!("{partitions} is no power of two"),
        );
        fields.demand(
            is_name(&self.name),
            "node.name",
            "a node needs a name of 1 to 64 letters, digits, `-`, `_` (it begins with a letter)",
        );
        fields.demand(is_name(&self.cluster), "node.cluster", "as node.name");
        fields.demand(
            !self.data_dir.as_os_str().is_empty(),
            "node.data_dir",
            "a node needs a data directory",
        );
        let memtables = self.store().memtables_bytes_max();
        fields.demand(
            memtables <= self.memory,
            "storage.memory",
            format!(
                "memory = {} is less than memtables alone may take: {memtables} bytes",
                self.memory
            ),
        );
        let store = self.store().validate();
        fields.demand(
            store.is_ok(),
            "storage.memtable",
            store.err().map_or_else(String::new, |error| error.to_string()),
        );
        for (path, address) in
            [("listen.peer", self.told_peer()), ("listen.client", self.told_client())]
        {
            let message = "others must be told an address at which they reach this node, not that of all interfaces";
            fields.demand(!parse::is_unspecified(address), path, message);
        }
        fields.demand(
            (crate::wire::frame::FRAME_BYTES_MIN..=1 << 30).contains(&self.frame),
            "limits.frame",
            "must be between 1MiB and 1GiB",
        );
        fields.demand(
            self.pair_max as usize <= self.frame / 8,
            "quorum.pair_max",
            "must be at most an eighth of limits.frame",
        );
        fields.demand(
            tracing_subscriber::EnvFilter::try_new(&self.log_filter).is_ok(),
            "log.filter",
            "is no log filter",
        );
    }

    /// Where other nodes are told to dial this one.
    pub fn told_peer(&self) -> &str {
        self.advertise_peer.as_ref().unwrap_or(&self.listen_peer)
    }

    /// Where clients are told to dial it.
    pub fn told_client(&self) -> &str {
        self.advertise_client.as_ref().unwrap_or(&self.listen_client)
    }

    /// How the store is set up.
    pub fn store(&self) -> storage::Options {
        storage::Options {
            sync: self.sync,
            memtable_bytes: self.memtable,
            cache_bytes: self.cache,
            memory_bytes: self.memory,
            compression: self.compression,
            block_bytes: self.compression.block_bytes(),
            bloom_bits_per_key: self.bloom_bits,
            ..storage::Options::default()
        }
    }

    /// Listen addresses that others than this machine may reach.
    pub fn exposed(&self) -> Vec<&str> {
        let listen =
            [Some(&self.listen_peer), Some(&self.listen_client), self.listen_http.as_ref()];
        listen
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|address| !parse::is_loopback(address))
            .collect()
    }
}

fn refuse_what_is_not_built(settings: &Settings, fields: &mut Fields<'_>) {
    for key in KEYS {
        if let Built::DefaultOnly(feature) = key.built {
            let default = settings.get(key.path).is_none_or(|set| set.texts == [key.default]);
            fields.demand(
                default,
                key.path,
                format!(
                    "this release has only \"{}\" here: {feature} is not built yet",
                    key.default
                ),
            );
        }
    }
}

/// Whether `text` can name a node or a cluster: it stands in clocks (`n1.2`) and files.
fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// The configuration file of an installation, every key at its default with a comment.
pub fn example() -> String {
    let mut text =
        String::from("# kvnode configuration. Every key stands here with its default.\n");
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.parts();
        if of != section {
            section = of;
            text.extend(["\n[", section, "]\n"]);
        }
        let shown = toml_value(key, &[key.default.to_owned()]);
        let setting = format!("{name} = {shown}");
        text.extend([format!("{setting:<32} # "), key.about.to_owned(), "\n".to_owned()]);
    }
    text
}

/// `text` as a TOML string.
pub fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A key's value as it would stand in the file.
pub fn toml_value(key: &Key, texts: &[String]) -> String {
    let quoted = |text: &String| toml_text(text);
    match key.form {
        keys::Form::List => {
            let items: Vec<String> =
                texts.iter().filter(|text| !text.is_empty()).map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
        keys::Form::Count(..) | keys::Form::Weight => texts.join(""),
        _ => texts.first().map(quoted).unwrap_or_default(),
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Default => write!(f, "{}", self.text),
            _ => write!(f, "{}: {}", self.origin, self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvnode.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        gather(Some(&path), environment, &flags)
            .and_then(|settings| Config::from_settings(&settings))
            .map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
    }

    const GOOD: &str = "[node]\nname = \"n1\"\ndata_dir = \"/d\"\n";

    #[track_caller]
    fn check(addition: &str, expected: &str) {
        assert_eq!(load(&format!("{GOOD}{addition}"), &[], &[]).unwrap_err(), expected);
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_defaults() {
        let file = format!("{GOOD}[quorum]\ntimeout = \"2s\"\nr = 3\nw = 3\n");
        let config = load(
            &file,
            &[("KVNODE_QUORUM__R", "1"), ("KVNODE_QUORUM__W", "1"), ("KVNODE_BIN", "x")],
            &["quorum.w=2"],
        )
        .unwrap();
        assert_eq!((config.founding.n, config.founding.r, config.founding.w), (3, 1, 2));
        assert_eq!(config.timeout, Duration::from_secs(2));
    }

    #[test]
    fn wrong_things_are_named_with_line_and_column() {
        check(
            "zome = \"a\"\n",
            "FILE:4:1: unknown key `node.zome`; [node] knows name, zone, data_dir, cluster, seeds, join",
        );
        check("[storag]\nx = 1\n", "FILE:4:2: unknown section [storag]");
        check(
            "[storage]\nsync = \"often\"\n",
            "FILE:5:1: storage.sync: \"often\" is not \"always\", \"interval=10ms\" or \"never\"",
        );
        check("[quorum]\n  w = 4\n", "FILE:5:3: quorum.w: w = 4 is above n = 3");
        check(
            "[tls]\npeers = \"require\"\n",
            "FILE:5:1: tls.peers: this release has only \"off\" here: TLS is not built yet",
        );
        check("[listen]\npeer = true\n", "FILE:5:8: listen.peer: expected host:port");
    }

    #[test]
    fn a_syntax_error_is_named_with_line_and_column() {
        let error = load("[node]\nname = \"n1\n", &[], &[]).unwrap_err();
        assert!(error.starts_with("FILE:2:"), "{error}");
    }

    #[test]
    fn unknown_variables_and_flags_are_errors() {
        let error = load(GOOD, &[("KVNODE_STORAGE__SNYC", "never")], &["a.b=1"]).unwrap_err();
        assert_eq!(
            error,
            "KVNODE_STORAGE__SNYC: unknown key `storage.snyc`; [storage] knows sync, memtable, cache, compression, bloom_bits, memory\n--set: unknown key `a.b`"
        );
    }

    #[test]
    fn a_node_needs_a_name_and_a_directory() {
        let error = load("", &[], &[]).unwrap_err();
        assert!(error.contains("node.name") && error.contains("node.data_dir"), "{error}");
    }

    #[test]
    fn the_example_is_a_valid_configuration_of_defaults() {
        let text = example().replacen("name = \"\"", "name = \"n1\"", 1).replacen(
            "data_dir = \"\"",
            "data_dir = \"/d\"",
            1,
        );
        assert_eq!(load(&text, &[], &[]).unwrap(), load(GOOD, &[], &[]).unwrap());
    }

    #[test]
    fn addresses_that_others_reach_are_known() {
        let config =
            load(GOOD, &[], &["listen.peer=10.0.0.1:7400", "listen.http=[::1]:1"]).unwrap();
        assert_eq!(config.exposed(), ["10.0.0.1:7400"]);
    }
}
