//! Every key of kvnode's configuration, once: name, form, default, and the line that explains it.
//!
//! The file, the environment, `--set`, `config show`, `--generate config` and the man page all go by this table.

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`, as messages show it.
    pub path: &'static str,
    /// What a value must look like.
    pub form: Form,
    /// The value where nothing sets it; a list is empty.
    pub default: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether this build does anything but the default.
    pub built: Built,
}

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// Texts in brackets; separated by commas in the environment and in flags.
    List,
    /// `host:port`.
    Address,
    /// `host:port`, or empty for none.
    AddressOrNone,
    /// `1s`, `250ms`, `3h`; above zero.
    Span,
    /// `64MiB`, `10KiB`; a number in a file is bytes.
    Size,
    /// `32MiB/s`; above zero.
    Rate,
    /// A whole number between the two, inclusive.
    Count(u32, u32),
    /// A decimal number from 0 to 1000 with at most three digits behind the point.
    Weight,
    /// One of these.
    Choice(&'static [&'static str]),
    /// `always`, `interval=SPAN` or `never`.
    Sync,
}

/// Whether a key's other values work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Built {
    /// They do.
    Yes,
    /// The default alone; the text names what is missing.
    DefaultOnly(&'static str),
}

const fn key(path: &'static str, form: Form, default: &'static str, about: &'static str) -> Key {
    Key { path, form, default, about, built: Built::Yes }
}

const fn later(
    path: &'static str,
    form: Form,
    default: &'static str,
    about: &'static str,
    feature: &'static str,
) -> Key {
    Key { path, form, default, about, built: Built::DefaultOnly(feature) }
}

/// All keys, section by section, in the order in which they are shown.
pub(crate) const KEYS: &[Key] = &[
    key("node.name", Form::Text, "", "unique; what clocks and status show"),
    key("node.zone", Form::Text, "", "failure zone: a rack, a room"),
    key("node.data_dir", Form::Text, "", "where this node keeps everything"),
    key("node.cluster", Form::Text, "kv", "the cluster's name"),
    key("node.seeds", Form::List, "", "peers to ask first, host:port"),
    key(
        "node.join",
        Form::Choice(&["auto", "staged"]),
        "auto",
        "or \"staged\": wait for kvctl cluster commit",
    ),
    key("listen.peer", Form::Address, "127.0.0.1:7400", "other nodes"),
    key("listen.client", Form::Address, "127.0.0.1:7401", "kvctl and the client library"),
    key(
        "listen.advertise_peer",
        Form::AddressOrNone,
        "",
        "what other nodes are told to dial instead of peer: behind NAT, a tunnel, a proxy",
    ),
    key("listen.advertise_client", Form::AddressOrNone, "", "the same for clients"),
    key(
        "listen.http",
        Form::AddressOrNone,
        "127.0.0.1:7402",
        "/livez /readyz /clusterz /status; empty for none",
    ),
    later(
        "listen.resp",
        Form::AddressOrNone,
        "",
        "\"127.0.0.1:6380\" to serve Redis clients",
        "the RESP listener",
    ),
    key(
        "quorum.n",
        Form::Count(1, 32),
        "3",
        "replicas of each key; counts when the cluster is founded",
    ),
    key("quorum.r", Form::Count(1, 32), "2", "replicas a read waits for; as n"),
    key("quorum.w", Form::Count(1, 32), "2", "replicas a write waits for; as n"),
    key(
        "quorum.mode",
        Form::Choice(&["available", "consistent"]),
        "available",
        "or \"consistent\": strict by default; as n",
    ),
    key("quorum.timeout", Form::Span, "1s", "deadline of a request that names none"),
    key("quorum.pair_max", Form::Size, "10KiB", "longest key and value together"),
    key(
        "ring.partitions",
        Form::Count(1, 65_536),
        "1024",
        "a power of two; counts when the cluster is founded",
    ),
    key("ring.weight", Form::Weight, "1.0", "this node's share; as partitions"),
    key("storage.sync", Form::Sync, "always", "\"interval=10ms\", \"never\""),
    key("storage.memtable", Form::Size, "64MiB", "a memtable of this size is written out"),
    key("storage.cache", Form::Size, "256MiB", "blocks kept in memory"),
    key("storage.compression", Form::Choice(&["lz4", "none"]), "lz4", "of SSTable blocks"),
    key("storage.bloom_bits", Form::Count(1, 32), "10", "bloom filter bits a key"),
    key("storage.memory", Form::Size, "1GiB", "budget: cache, memtables, indexes, filters"),
    key("gossip.interval", Form::Span, "1s", "how often a node raises its heartbeat"),
    key("hints.ttl", Form::Span, "3h", "how long a hint waits for its node alone"),
    key("hints.max", Form::Size, "1GiB", "space for hints"),
    key("repair.rate", Form::Rate, "32MiB/s", "of background repair"),
    key("limits.connections", Form::Count(1, 1_000_000), "10000", "clients at once"),
    key("limits.frame", Form::Size, "8MiB", "largest message"),
    key("limits.memory", Form::Size, "256MiB", "requests in flight"),
    later("tls.ca", Form::Text, "", "certificate authority", "TLS"),
    later("tls.cert", Form::Text, "", "this node's certificate", "TLS"),
    later("tls.key_file", Form::Text, "", "its key", "TLS"),
    later("tls.peers", Form::Choice(&["off", "require"]), "off", "or \"require\"", "TLS"),
    later("tls.clients", Form::Choice(&["off", "require"]), "off", "or \"require\"", "TLS"),
    later("auth.tokens_file", Form::Text, "", "client tokens", "authentication"),
    later("auth.peer_secret_file", Form::Text, "", "secret of the nodes", "authentication"),
    later(
        "resp.on_siblings",
        Form::Choice(&["latest", "error"]),
        "latest",
        "or \"error\"",
        "the RESP listener",
    ),
    key("log.filter", Form::Text, "info", "error, warn, info, debug, trace; or per module"),
    key(
        "log.format",
        Form::Choice(&["auto", "text", "json"]),
        "auto",
        "text, or without times under systemd; \"json\"",
    ),
];

impl Key {
    /// The key at `section.name`.
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// Its section and its name there.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// The environment variable that sets it: `KVNODE_STORAGE__SYNC`.
    pub fn variable(&self) -> String {
        let (section, name) = self.parts();
        format!("KVNODE_{}__{}", section.to_uppercase(), name.to_uppercase())
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text => write!(f, "a text"),
            Self::List => write!(f, "a list of texts"),
            Self::Address => write!(f, "host:port"),
            Self::AddressOrNone => write!(f, "host:port or nothing"),
            Self::Span => write!(f, "a span above zero such as 250ms, 1s, 3h"),
            Self::Size => write!(f, "a size such as 10KiB, 64MiB"),
            Self::Rate => write!(f, "a rate such as 32MiB/s"),
            Self::Count(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::Weight => write!(f, "a number from 0 to 1000 with at most three decimals"),
            Self::Choice(choices) => {
                write!(
                    f,
                    "one of {}",
                    choices
                        .iter()
                        .map(|choice| format!("\"{choice}\""))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
            Self::Sync => write!(f, "\"always\", \"interval=10ms\" or \"never\""),
        }
    }
}
