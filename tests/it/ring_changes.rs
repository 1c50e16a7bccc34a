//! `kvring` on what could be: differences, plans, failures, and clusters that do not exist.

use std::fs;

use predicates::prelude::*;
use predicates::str::{contains, is_empty};
use serde_json::Value;

use crate::live::{Live, json};
use crate::node_fixture::Result;
use crate::tool::{stdout, tool};

/// A cluster of three, 1,024 partitions, N=3 R=2 W=2, in the form that `kvring export` writes.
const LAYOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/layout-3-nodes.json");

/// What a successful `kvring` prints, with the saved layout.
fn offline(arguments: &[&str]) -> String {
    stdout(&tool("kvring").args(arguments).args(["--layout", LAYOUT]).assert().success())
}

/// The layout of six in zones a, b and c, two each, planned from the saved one.
fn six_in_zones() -> String {
    let adds = ["n4:b", "n5:c", "n6:c"].map(|add| ["--add", add]).concat();
    let zones = ["n1=a", "n2=a", "n3=b"].map(|zone| ["--zone", zone]).concat();
    offline(&[&["plan"][..], &adds, &zones, &["--out", "-"]].concat())
}

/// A line of `--plain`, by its first field.
fn line<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    lines.find(|fields| fields[0] == kind).unwrap_or_else(|| panic!("no {kind}: {text}"))
}

#[test]
fn a_plan_says_what_moves_and_goes_on_through_pipes() {
    let report = json(&offline(&["plan", "--add", "n4", "--bytes", "3GiB", "--json"]));
    let number = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    // A quarter of everything, all to the joiner, at most a fifth more than the least possible.
    assert!((0.25..0.3).contains(&number("moved")), "{report}");
    assert_eq!(report["slots_least"], 49_152);
    let bytes = number("bytes_moved") / f64::from(3_u32 << 30);
    assert!((bytes - number("moved")).abs() < 0.001, "{report}");
    let moves = report["moves"].as_array().expect("a list");
    assert!(moves.iter().any(|moved| moved["from"] == "n1" && moved["to"] == "n4"));
    assert!(report["after"]["skew"].as_f64() < Some(0.05));
    tool("kvring").args(["plan", "--add", "n4", "--layout", LAYOUT]).assert().success().stdout(
        contains("the least possible for fair shares is 25.000%")
            .and(contains("4 members, 1024 partitions")),
    );

    let planned = offline(&["plan", "--add", "n4", "--out", "-"]);
    let piped =
        |arguments: &[&str]| tool("kvring").args(arguments).write_stdin(planned.clone()).assert();
    piped(&["balance", "--layout", "-"]).success().stdout(contains("n4"));
    piped(&["check", "--layout", "-"]).success();
    piped(&["diff", LAYOUT, "-"]).code(1).stdout(contains("+ n4"));
    // A plan on a plan: the planned member is known by its name, and going again leaves the first three.
    let back = stdout(&piped(&["plan", "--remove", "n4", "--out", "-", "--layout", "-"]).success());
    let names = |text: &str| -> Vec<Value> {
        let members = json(text)["layout"]["now"]["members"].clone();
        members.as_array().expect("a list").iter().map(|member| member["name"].clone()).collect()
    };
    assert_eq!(names(&back), ["n1", "n2", "n3"]);
}

#[test]
fn a_plan_is_written_to_a_file_or_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("planned.json");
    let path = path.to_str().expect("a path");
    let report = offline(&["plan", "--partitions", "2048", "--out", path]);
    assert!(report.contains("moved: 0.000%"), "{report}");
    let shown = stdout(&tool("kvring").args(["show", "--layout", path]).assert().success());
    assert!(shown.contains("layout v2  2048 partitions"), "{shown}");
    for (arguments, reason) in [
        (&[][..], "nothing to plan"),
        (&["--remove", "n9"], "no member is named `n9`"),
        (&["--add", "n1"], "a member is named `n1` already"),
        (&["--n", "1"], "r and w at most n"),
        (&["--partitions", "512"], "can only be doubled"),
        (&["--remove", "n1", "--remove", "n2", "--remove", "n3"], "at least one member"),
        (&["--add", "n4:b:x"], "no weight"),
    ] {
        tool("kvring")
            .arg("plan")
            .args(arguments)
            .args(["--layout", LAYOUT])
            .assert()
            .code(2)
            .stdout(is_empty())
            .stderr(contains(reason));
    }
    tool("kvring")
        .args(["plan", "--add", "n4", "--out", "/nowhere/x", "--layout", LAYOUT])
        .assert()
        .code(73)
        .stderr(contains("cannot write /nowhere/x"));
}

#[test]
fn layouts_that_say_the_same_are_0_and_others_1() {
    tool("kvring")
        .args(["diff", LAYOUT, LAYOUT])
        .assert()
        .success()
        .stdout("layouts v1 and v1 say the same\n");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("other.json");
    let text = fs::read_to_string(LAYOUT).expect("the layout is there");
    // A version alone is nothing; a weight, a name and the quorum are.
    fs::write(&path, text.replace("\"version\":1", "\"version\":7")).expect("written");
    tool("kvring").args(["diff", LAYOUT]).arg(&path).assert().success();
    let other = text
        .replacen("\"weight\":1.0", "\"weight\":2.0", 1)
        .replace("\"name\":\"n3\"", "\"name\":\"gamma\"")
        .replace("\"w\":2", "\"w\":3");
    fs::write(&path, other).expect("written");
    let plain = tool("kvring").args(["diff", "--plain", LAYOUT]).arg(&path).assert().code(1);
    let expected =
        "changed\tn1\tweight\t1.0\t2.0\nchanged\tgamma\tname\tn3\tgamma\nsetting\tw\t2\t3\n";
    assert_eq!(stdout(&plain), expected);
    let object = tool("kvring").args(["diff", "--json", LAYOUT]).arg(&path).assert().code(1);
    let object = json(&stdout(&object));
    assert_eq!((&object["equal"], &object["slots_moved"]), (&Value::from(false), &Value::from(0)));
    assert_eq!(object["settings"][0]["what"], "w");
    // The layout that is compared is the one of --layout where no second one is named.
    tool("kvring").args(["diff", LAYOUT, "--layout"]).arg(&path).assert().code(1);
    tool("kvring").args(["diff", "-", "-"]).assert().code(2).stderr(contains("only one"));
    tool("kvring").args(["diff", LAYOUT, "/nowhere"]).assert().code(66);
}

#[test]
fn a_lost_node_and_a_lost_zone_leave_what_the_quorum_says() {
    let plain = offline(&["whatif", "--kill", "n1", "--plain"]);
    assert_eq!(line(&plain, "owners"), ["owners", "3", "0", "0"]);
    assert_eq!(line(&plain, "strict_get"), ["strict_get", "2", "65536"]);
    assert_eq!(line(&plain, "sloppy_put"), ["sloppy_put", "2", "65536"]);
    // R=1 is answered strictly by all owners only: that is what a get needs to meet every put.
    let plain = offline(&["whatif", "--kill", "n1", "-r", "one", "-w", "all", "--plain"]);
    assert_eq!(line(&plain, "strict_get"), ["strict_get", "3", "0"]);
    assert_eq!(line(&plain, "sloppy_get"), ["sloppy_get", "1", "65536"]);
    let plain = offline(&["whatif", "--kill", "n1,n2", "--plain"]);
    assert_eq!(line(&plain, "strict_put"), ["strict_put", "2", "0"]);
    assert_eq!(line(&plain, "sloppy_put"), ["sloppy_put", "2", "0"]);

    // Each zone holds each key once: any one zone may go, all that is lost is the third replica.
    let zones = six_in_zones();
    for zone in ["a", "b", "c"] {
        let assert = tool("kvring")
            .args(["whatif", "--json", "--layout", "-", "--kill", zone])
            .write_stdin(zones.clone())
            .assert()
            .success();
        let report = json(&stdout(&assert));
        assert_eq!(report["down"].as_array().map(Vec::len), Some(2), "{report}");
        let two = &report["owners_up"][2];
        assert_eq!((&two["owners"], &two["slots"]), (&Value::from(2), &Value::from(65_536)));
        assert_eq!(report["requests"][0]["slots"], 65_536, "{report}");
    }
    let text = offline(&["whatif", "--kill", "n1,n2,n3"]);
    assert!(text.contains("100.000% of the keys have no owner up"), "{text}");
    tool("kvring")
        .args(["whatif", "--kill", "n9", "--layout", LAYOUT])
        .assert()
        .code(2)
        .stderr(contains("no member and no zone is named `n9`"));
    tool("kvring").args(["whatif", "--layout", LAYOUT]).assert().code(2);
    tool("kvring").args(["whatif", "--random", "4", "--layout", LAYOUT]).assert().code(2);
    tool("kvring")
        .args(["whatif", "--kill", "n1", "-r", "4", "--layout", LAYOUT])
        .assert()
        .code(2)
        .stderr(contains("more than the 3 replicas"));
}

#[test]
fn odds_of_failures_are_exact_or_say_how_sure_they_are() {
    // Of six in three zones two nodes of different zones share a key, two of one zone do not: 12 of 15 pairs.
    let zones = six_in_zones();
    let odds = |arguments: &[&str]| {
        let assert = tool("kvring")
            .args(["whatif", "--json", "--layout", "-"])
            .args(arguments)
            .write_stdin(zones.clone())
            .assert()
            .success();
        json(stdout(&assert).lines().last().expect("a line"))
    };
    let exact = odds(&["--random", "2"]);
    assert_eq!((&exact["exact"], &exact["outcomes"]), (&Value::from(true), &Value::from(15)));
    let get = &exact["losses"][0];
    assert_eq!((&get["lost"], &get["owners_down"]), (&Value::from("strict_get"), &Value::from(2)));
    assert_eq!(get["odds"].as_f64(), Some(0.8), "{exact}");
    assert_eq!(exact["losses"][2]["odds"].as_f64(), Some(0.0), "{exact}");
    // With a whole zone down already, any further failure takes the quorum of some key.
    assert_eq!(odds(&["--random", "1", "--kill", "b"])["losses"][0]["odds"].as_f64(), Some(1.0));

    let large = stdout(
        &tool("kvring")
            .args(["plan", "--layout", LAYOUT, "--partitions", "4096", "--out", "-"])
            .args((4..=60).flat_map(|number| ["--add".to_owned(), format!("n{number}")]))
            .assert()
            .success(),
    );
    let sampled = |seed: &str| {
        let assert = tool("kvring")
            .args(["whatif", "--json", "--layout", "-", "--random", "5"])
            .args(["--samples", "2000", "--seed", seed])
            .write_stdin(large.clone())
            .assert()
            .success();
        json(stdout(&assert).lines().last().expect("a line"))
    };
    let (once, again, other) = (sampled("1"), sampled("1"), sampled("2"));
    assert_eq!(once, again, "one seed, one answer");
    assert_ne!(once, other);
    assert_eq!((&once["exact"], &once["outcomes"]), (&Value::from(false), &Value::from(2_000)));
    let all = &once["losses"][2];
    let number = |name: &str| all[name].as_f64().unwrap_or(f64::NAN);
    assert!(number("odds_low") < number("odds") && number("odds") < number("odds_high"), "{once}");
}

#[test]
fn rings_that_do_not_exist_are_simulated() {
    let arguments =
        ["simulate", "--nodes", "20", "--random-tokens", "64", "--keys", "20000", "--joins", "2"];
    let run = |more: &[&str]| stdout(&tool("kvring").args(arguments).args(more).assert().success());
    let objects: Vec<Value> = run(&["--json"]).lines().map(json).collect();
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["type"].as_str()).collect();
    let expected = [&["simulation"][..], &["evenness"; 8], &["join"; 4]].concat();
    assert_eq!(kinds, expected);
    assert_eq!(objects[0]["partitions"], 1_024);
    let of = |placement: &str| {
        let mut of = objects.iter().filter(|object| object["placement"] == placement);
        of.next().and_then(|object| object["max_to_mean"].as_f64()).unwrap_or(f64::NAN)
    };
    assert!(of("solver") < 1.02 && of("tokens") > 1.05, "{} and {}", of("solver"), of("tokens"));
    assert_eq!(run(&[]), run(&[]), "one seed, one answer");
    let human = run(&[]);
    assert!(human.starts_with("20 members, 1024 partitions, N=3; 20000 keys, seed 1\n"), "{human}");
    assert_eq!(run(&["--plain"]).lines().count(), 12);
    tool("kvring")
        .args(["simulate", "--nodes", "5", "--keys", "10", "--progress", "json"])
        .assert()
        .success()
        .stderr(contains(r#""step":"placing 5 members over 1024 partitions"#));
    for (arguments, reason) in [
        (["--nodes", "10001"], "10000"),
        (["--partitions", "1000"], "a power of two"),
        (["--joins", "9999"], "more than 10000"),
    ] {
        let mut all = vec!["simulate", "--keys", "1"];
        all.extend(if arguments[0] == "--nodes" { vec![] } else { vec!["--nodes", "5"] });
        all.extend(arguments);
        tool("kvring").args(all).assert().code(2).stdout(is_empty()).stderr(contains(reason));
    }
}

#[test]
fn a_live_plan_knows_how_much_data_moves() -> Result<()> {
    let live = Live::start()?;
    for key in 0..20 {
        live.ok(&["put", &format!("k{key}"), &"x".repeat(1_000)]);
    }
    let report = json(&live.kvring(&["plan", "--add", "n4", "--json"]));
    let bytes = report["bytes_moved"].as_u64().ok_or("bytes")?;
    assert!(bytes > 1_000, "{report}");
    let directory = live.cluster.dir.path().join("planned.json");
    let path = directory.to_str().ok_or("a path")?;
    live.kvring(&["plan", "--remove", "n3", "--out", path]);
    let text = live.kvring(&["whatif", "--kill", "n2"]);
    assert!(text.contains("1 of 3 members down (n2); N=3 R=2 W=2"), "{text}");
    let same = directory.with_extension("same");
    fs::write(&same, live.kvring(&["export"]))?;
    live.kvring(&["diff", same.to_str().ok_or("a path")?]);
    Ok(())
}
