//! kvnode: the replica daemon, the founding of clusters, and whole clusters on one machine.

pub mod config;
mod dev;
mod init;
mod inspect;
mod logging;
mod run;
mod systemd;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::generate::Generate;
use super::{Common, Exit, Manual, Program};

/// Run a node of a kvkit cluster, found a cluster, or start one on this machine
#[derive(Debug, Parser)]
#[command(name = "kvnode", args_conflicts_with_subcommands = true)]
pub struct Kvnode {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
    #[command(flatten)]
    common: Common,
    /// Print a text made from these definitions and exit
    #[arg(long, value_enum, value_name = "WHAT")]
    generate: Option<Text>,
}

/// What `--generate` can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Text {
    /// The man page
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
    /// A systemd template unit, kvnode@.service
    Systemd,
    /// A configuration file with every key at its default
    Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node (the default)
    Run(run::RunArgs),
    /// Found a cluster of the nodes configured in these files, in empty directories, once
    Init(init::InitArgs),
    /// Start a cluster of child processes on this machine
    Dev(dev::DevArgs),
    /// Check a configuration; exit 0 when it is good, 78 when not
    CheckConfig(ConfigArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its value
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print what set each value, too
        #[arg(long)]
        origin: bool,
    },
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
struct ConfigArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, over the file and the environment
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Program for Kvnode {
    const MANUAL: Manual = Manual {
        program: "kvnode",
        description: "kvnode is one replica of a Dynamo-style key-value store: it stores its share of the keys, \
            coordinates the requests of clients, and watches the other nodes. A cluster is founded once with \
            kvnode init, which writes the data directory of each of its nodes; kvnode run then serves from it. \
            kvnode dev does all of that on one machine.",
        examples: "# a cluster of three on this machine, until Ctrl-C\n\
            kvnode dev -n 3\n\
            # the same in the background, with data that stays\n\
            kvnode dev -n 3 --detach --data /tmp/kv && kvnode dev --stop --data /tmp/kv\n\
            # found a cluster of three configured nodes, then run one\n\
            kvnode init -c n1.toml -c n2.toml -c n3.toml\n\
            kvnode run -c n1.toml\n\
            # where does each setting come from?\n\
            kvnode config show --origin -c n1.toml",
        environment: &[
            (
                "KVNODE_SECTION__KEY",
                "sets a key of the configuration, over the file: KVNODE_STORAGE__SYNC=never",
            ),
            ("NOTIFY_SOCKET", "set by systemd: told when the node is ready and when it stops"),
        ],
        files: &[
            ("IDENTITY", "in the data directory: which node of which cluster it belongs to"),
            ("LOCK", "the process that runs on it"),
            ("admin.sock", "for kvctl --socket; takes the node's user and root alone"),
            ("dev.json", "in the directory of kvnode dev: its nodes"),
        ],
        see_also: &["kvctl", "kvring", "kvsstable"],
    };

    fn generate(&self) -> Option<Generate> {
        match self.generate? {
            Text::Man => Some(Generate::Man),
            Text::Bash => Some(Generate::Bash),
            Text::Zsh => Some(Generate::Zsh),
            Text::Fish => Some(Generate::Fish),
            Text::Systemd | Text::Config => None,
        }
    }

    fn run(self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match self.generate {
            Some(Text::Systemd) => out.write_all(systemd::UNIT.as_bytes())?,
            Some(Text::Config) => out.write_all(config::example().as_bytes())?,
            Some(Text::Man | Text::Bash | Text::Zsh | Text::Fish) | None => {
                return match self.command {
                    None => run::run(&self.run),
                    Some(Command::Run(args)) => run::run(&args),
                    Some(Command::Init(args)) => init::init(&args, &self.common, out),
                    Some(Command::Dev(args)) => dev::dev(&args, &self.common, out),
                    Some(Command::CheckConfig(args)) => inspect::check(&args, &self.common),
                    Some(Command::Config(ConfigCommand::Show { config, origin })) => {
                        inspect::show(&config, origin, &self.common, out)
                    }
                };
            }
        }
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_make_sense_to_clap() {
        Kvnode::described().debug_assert();
    }
}
