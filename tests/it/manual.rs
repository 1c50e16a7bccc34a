//! The man pages are what the flag definitions say, and say something of every flag.
//!
//! After a change of flags: `KVKIT_WRITE_MAN=1 cargo test --test it manual` writes `man/*.1` anew.

use std::fs;
use std::path::Path;

use crate::tool::{stdout, tool};

const PROGRAMS: [&str; 4] = ["kvctl", "kvnode", "kvring", "kvsstable"];

#[test]
fn committed_pages_are_the_generated_ones() {
    for program in PROGRAMS {
        let page = stdout(&tool(program).args(["--generate", "man"]).assert().success());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(format!("{program}.1"));
        if std::env::var_os("KVKIT_WRITE_MAN").is_some() {
            fs::write(&path, &page).expect("the page can be written");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "{} is stale; KVKIT_WRITE_MAN=1 cargo test --test it manual writes it anew",
            path.display()
        );
    }
}

#[test]
fn every_flag_of_every_command_is_in_its_page() {
    for program in PROGRAMS {
        let page = stdout(&tool(program).args(["--generate", "man"]).assert().success());
        let page = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS"] {
            let quoted = format!(".SH \"{section}\"");
            let plain = format!(".SH {section}");
            assert!(page.contains(&plain) || page.contains(&quoted), "{program}: no {section}");
        }
        let mut flags = Vec::new();
        walk(program, &mut Vec::new(), &mut flags);
        assert!(flags.len() > 10, "{program}: {flags:?}");
        for flag in flags {
            assert!(page.contains(&flag), "{program}: {flag} is not in the man page");
        }
    }
}

/// Collects the flags that `--help` of a command and of all below it names.
fn walk(program: &str, command: &mut Vec<String>, flags: &mut Vec<String>) {
    let help = stdout(&tool(program).args(&*command).arg("--help").assert().success());
    let mut in_commands = false;
    let mut below = Vec::new();
    for line in help.lines() {
        if !line.starts_with(' ') {
            in_commands = line == "Commands:";
        } else if line.starts_with("  -") || line.starts_with("      --") {
            let words = line.split([' ', ',']).filter(|word| word.starts_with('-'));
            flags.extend(words.map(|word| word.trim_end_matches('.').to_owned()));
        } else if in_commands && line.starts_with("  ") && !line.starts_with("   ") {
            below.extend(line.split_whitespace().next().map(str::to_owned));
        }
    }
    for name in below.into_iter().filter(|name| name != "help") {
        command.push(name);
        walk(program, command, flags);
        command.pop();
    }
}
